"""`mloc-intake watch DIR`: submits each task file that is put there, exactly once, also over restarts and beside other watchers.

The folder is looked at twice a second: that works on every file system, and a file has to lie still for longer anyhow.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec

from mloc.core.language.errors import LanguageError
from mloc.services.intake.commands import exit_codes as codes
from mloc.services.intake.commands.opening import api_url, missing_is_wrong, open_source
from mloc.services.intake.commands.output import say
from mloc.services.intake.commands.source import Source
from mloc.services.intake.commands.submit import Outcome, prepare, refuse, say_wrong, submit_one
from mloc.services.intake.local_paths import MissingIsWrong
from mloc.services.intake.task_file import TaskFile
from mloc.services.intake.watching.watch_record import RECORD, WatchRecord
from mloc.services.intake.watching.watched_folder import Found, WatchedFolder
from mloc.services.settings import Settings
from mloc.services.signals import stop_on_signals

LOOK_SEC = 0.5
WRONG_AFTER_SEC = 3.0  # a text that is wrong may be the half of a right one
AGAIN_SEC = 5.0  # after a failure that is not the file's


def watch(settings: Settings, asked: argparse.Namespace) -> int:
    """Until it is stopped, or with --once until each file that is there now was dealt with."""
    folder = Path(asked.folder)
    if not folder.is_dir():
        say(f"mloc-intake watch: {folder} is no folder")
        return codes.INVALID
    if asked.move_to:
        Path(asked.move_to).mkdir(parents=True, exist_ok=True)
    return asyncio.run(_watch(settings, asked, folder))


async def _watch(settings: Settings, asked: argparse.Namespace, folder: Path) -> int:
    stop = stop_on_signals()
    async with open_source(settings, asked) as source:
        url = api_url(settings, asked)
        to, missing = url or f"log {settings.mloc_namespace}", missing_is_wrong(settings, asked)
        watcher = Watcher(source, folder, asked, _record_file(settings, folder), to, missing_is_wrong=missing)
        if not asked.once:
            watcher.tell("watching", str(folder), "ctrl-C ends it; what was submitted goes on")
        looking = asyncio.create_task(_look_again_and_again(watcher, until_done=asked.once))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({looking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        looking.cancel()  # what it was at is done by the next watcher, under the same key
        with contextlib.suppress(asyncio.CancelledError):
            await looking
    return watcher.code if asked.once else codes.OK


async def _look_again_and_again(watcher: Watcher, *, until_done: bool) -> None:
    while await watcher.look() or not until_done:
        await asyncio.sleep(LOOK_SEC)


class Watcher:
    """One folder and what became of its files. `code` is the worst that happened."""

    def __init__(self, source: Source, folder: Path, asked: argparse.Namespace, record: Path, to: str, *, missing_is_wrong: MissingIsWrong) -> None:
        self.code = codes.OK
        self._source = source
        self._folder = WatchedFolder(folder, time.monotonic, lambda path, why: self.tell("ignored", path, why))
        self._record = WatchRecord(record, to)
        self._move_to = Path(asked.move_to) if asked.move_to else None
        self._as_json = asked.json
        self._missing_is_wrong = missing_is_wrong
        self._done: dict[Path, tuple[int, int, int]] = {}  # the mark of what was dealt with
        self._first_seen: dict[Path, tuple[tuple[int, int, int], float]] = {}
        self._again_at = 0.0

    def tell(self, what: str, source: str, why: str = "", **more: Any) -> None:
        """A line for people, or a line of JSON."""
        if self._as_json:
            print(msgspec.json.encode({"event": what, "source": source, **({"message": why} if why else {}), **more}).decode(), flush=True)
        elif what == "submitted":
            how = "already submitted" if more.get("repeated") else "submitted"
            print(f"{source}: {how} {', '.join(more['task_ids'][:1])}" + (f"; {why}" if why else ""), flush=True)
        else:
            say(f"{source}: {what}" + (f": {why}" if why else ""))

    async def look(self) -> int:
        """Deal with what is whole; gives how many files are left to deal with."""
        try:
            found, unsettled = self._folder.look()
        except OSError as error:
            self.tell("unreadable", str(self._folder.folder), error.strerror or str(error))
            self.code = codes.FAILED
            return 0
        left = unsettled
        for file in found:
            if self._done.get(file.path) == file.mark:
                continue
            if time.monotonic() < self._again_at or not await self._deal_with(file):
                left += 1
            else:
                self._done[file.path] = file.mark
        return left

    async def _deal_with(self, file: Found) -> bool:
        """False where it has to be looked at again."""
        path = str(file.path.resolve())
        with self._record.held() as is_ours:
            if not is_ours:
                return False
            known = self._record.latest(path)
            if known is not None and known.leaves == file.mark[0]:
                return self._move(file)  # who noted that was killed before it moved the file
            if known is not None and not known.leaves and known.digest == file.digest:
                return self._leave(file)
            outcome = await self._submit(file, self._record.key(path, file.digest))
            if outcome is None:
                return False
            if outcome.error is None:
                self._record.note(path, file.digest, outcome.answer["task_ids"])
                why = "the file has changed" if known is not None and not known.leaves else ""
                self.tell("submitted", str(file.path), why, **{"repeated": False, **outcome.answer})
                return self._leave(file)
        return self._report(file, outcome)

    async def _submit(self, file: Found, key: str) -> Outcome | None:
        """None where the text is wrong and so young that it may be half of one."""
        outcome = Outcome(str(file.path), file.text)
        try:
            prepared = prepare(TaskFile(str(file.path), file.text, file.path.resolve().parent), {}, missing_is_wrong=self._missing_is_wrong)
        except LanguageError as error:
            mark, since = self._first_seen.get(file.path, ((0, 0, 0), 0.0))
            if mark != file.mark:
                self._first_seen[file.path] = (file.mark, time.monotonic())
                return None
            if time.monotonic() - since < WRONG_AFTER_SEC:
                return None
            refuse(outcome, error)
            return outcome
        await submit_one(self._source, outcome, prepared, key)
        return outcome

    def _report(self, file: Found, outcome: Outcome) -> bool:
        """Say once what is wrong; what is not the file's fault is tried again later."""
        assert outcome.error is not None
        self.code = max(self.code, outcome.code)
        if outcome.is_passing:
            self.tell("waiting", str(file.path), f"{outcome.error['message']}; trying again", error=outcome.error)
            self._again_at = time.monotonic() + AGAIN_SEC
            return False
        self.tell("wrong", str(file.path), "not submitted; it is tried again when it changes", error=outcome.error)
        if not self._as_json:
            say_wrong(outcome)
        return True

    def _leave(self, file: Found) -> bool:
        """What was submitted stays, or is moved away."""
        if self._move_to is None:
            return True
        note = self._record.latest(str(file.path.resolve()))
        if self._folder.mark(file.path) != file.mark or note is None:
            return False  # changed meanwhile: another version
        self._record.note_leaving(note, file.mark[0])
        return self._move(file)

    def _move(self, file: Found) -> bool:
        if self._move_to is None:
            return True
        to = self._move_to / file.path.name
        if os.path.lexists(to):
            to = to.with_name(f"{to.stem}-{file.digest[:8]}-{time.time_ns()}{to.suffix}")
        shutil.move(file.path, to)
        if hashlib.sha256(to.read_bytes()).hexdigest() != file.digest:  # written in the last moment: it is another version
            shutil.move(to, file.path)
            return False
        return True


def _record_file(settings: Settings, folder: Path) -> Path:
    """Beside the files; in the state folder where that cannot be written."""
    if os.access(folder, os.W_OK):
        return folder / RECORD
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    (settings.state_dir / "watch").mkdir(parents=True, exist_ok=True)
    return settings.state_dir / "watch" / f"{name}.jsonl"
