"""What earlier attempts of a task left, on this disk before the next one begins: rows that are done, the newest checkpoint.

It lies in the shared folder, under whichever path that has here, or at the API, where workers without one uploaded it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from pathlib import Path

import msgspec
from msgspec import Struct

from mloc.core.host_frames import RunTask
from mloc.services.artifacts.digests import file_sha256
from mloc.services.results.folders import ARTIFACTS, attempt_folder
from mloc.services.transfers.progress_uploads import CHECKPOINTS, LIST_SUFFIX, ROWS, Complete
from mloc.services.transfers.remote_files import RemoteFiles, Say
from mloc.services.transfers.transfer_errors import TransferError

_PART = re.compile(rf"{ROWS}/(attempt-\d+\.jsonl)")
_PIECE = re.compile(rf"{ROWS}/(attempt-\d+)\.(\d{{15}})\.jsonl")

OWN_CHECKPOINTS = f"{ARTIFACTS}/{CHECKPOINTS}"  # where a training writes them, in its attempt's folder
_CHECKPOINT = re.compile(rf"/([^/]+)/(\d+)/{OWN_CHECKPOINTS}/([^/]+)$")

_OF_CHECKPOINT = re.compile(rf"{OWN_CHECKPOINTS}/([^/]+)/|{CHECKPOINTS}/([^/]+){re.escape(LIST_SUFFIX)}$")


class Left(Struct, frozen=True):
    """A file in an attempt's folder: of those that say how far it was."""

    attempt: int
    name: str
    size: int


class Saved(Struct, frozen=True):
    """A checkpoint, by its folder's name."""

    attempt: int
    name: str

    @property
    def listing(self) -> str:
        """The list of its files as a worker uploaded it."""
        return f"{CHECKPOINTS}/{self.name}{LIST_SUFFIX}"

    @property
    def step(self) -> int:
        """-1 where the name tells none."""
        number = self.name.rpartition("-")[2]
        return int(number) if number.isdecimal() else -1


class LeftFiles(Struct, frozen=True):
    """What the API answers."""

    files: list[Left]


def left_files(results_dir: Path, task: str) -> list[Left]:
    """Rows, and lists of checkpoints, that workers uploaded; and rows and the files of checkpoints of attempts that ran in this folder itself."""
    found = []
    attempts = (results_dir / attempt_folder(task, 0)).parent
    for folder in sorted(attempts.glob("*")):
        if folder.name.isdecimal():
            for path in (
                *folder.glob(f"{ROWS}/attempt-*.jsonl"), *folder.glob(f"{CHECKPOINTS}/*{LIST_SUFFIX}"),
                *(path for path in folder.glob(f"{OWN_CHECKPOINTS}/*/**/*") if path.is_file()),
            ):  # fmt: skip
                with contextlib.suppress(FileNotFoundError):
                    found.append(Left(int(folder.name), path.relative_to(folder).as_posix(), path.stat().st_size))
    for path in attempts.glob(f"{ROWS}/attempt-*.jsonl"):
        with contextlib.suppress(FileNotFoundError, ValueError):  # a name of somebody else's
            number = path.stem.removeprefix("attempt-")
            found.append(Left(int(number), path.relative_to(attempts).as_posix(), path.stat().st_size))
    return found


class Resuming:
    """`results_dir` is this worker's."""

    def __init__(self, results_dir: Path, remote: RemoteFiles) -> None:
        self._results_dir = results_dir
        self._remote = remote

    async def bring(self, frame: RunTask, say: Say, *, is_shared: bool) -> RunTask:
        """The frame of a later attempt, with rows in its rows folder and its checkpoint on this disk. Raises TransferError, OSError."""
        if frame.attempt < 2:
            return frame
        left = await asyncio.to_thread(left_files, self._results_dir, frame.task) if is_shared else await self._left_at_api(frame.task, say)
        if pieces := [file for file in left if _PIECE.fullmatch(file.name) and file.attempt < frame.attempt]:
            await self._join_rows(frame, pieces, say, is_shared=is_shared)
        if not is_shared:
            await self._parts(frame, left, say)
        if frame.checkpoint and not Path(frame.checkpoint).is_dir():
            found = await self._checkpoint(frame, left, say, is_shared=is_shared)
            frame = msgspec.structs.replace(frame, checkpoint=str(found) if found else "")
            if found is None or found.is_dir():  # else the training says what there is beside it
                say(f"going on from {found.name}" if found else "the checkpoint of the earlier attempt is not to be had; beginning anew")
        return frame

    # --- rows ---

    async def _join_rows(self, frame: RunTask, pieces: list[Left], say: Say, *, is_shared: bool) -> None:
        parts: dict[str, list[tuple[int, Left]]] = {}
        for piece in pieces:
            match = _PIECE.fullmatch(piece.name)
            assert match is not None
            parts.setdefault(f"{match[1]}.jsonl", []).append((int(match[2]), piece))
        for name, found in parts.items():
            target = Path(frame.rows_folder) / name
            if target.exists():  # this worker's own
                continue
            partial = target.with_name(f"{name}.joining")
            partial.unlink(missing_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            size = 0
            for offset, piece in sorted(found, key=lambda one: one[0]):
                if offset != size:
                    break  # one before it did not arrive
                size += await self._append(frame, piece, partial, say, is_shared=is_shared)
            if size:
                partial.rename(target)
                say(f"{size:,} bytes of rows of an earlier attempt are here")

    async def _parts(self, frame: RunTask, left: list[Left], say: Say) -> None:
        """Whole parts, of workers that share the API's folder."""
        for part in left:
            match = _PART.fullmatch(part.name)
            if match is None or part.attempt >= frame.attempt or (Path(frame.rows_folder) / match[1]).exists():
                continue
            await self._remote.fetch_to(self._url(frame.task, part.attempt, part.name), Path(frame.rows_folder) / match[1], say)
            say(f"{part.size:,} bytes of rows of an earlier attempt are here")

    async def _append(self, frame: RunTask, piece: Left, partial: Path, say: Say, *, is_shared: bool) -> int:
        held = self._results_dir / attempt_folder(frame.task, piece.attempt) / piece.name
        if not is_shared:
            held = partial.with_name("piece.joining")
            await self._remote.fetch_to(self._url(frame.task, piece.attempt, piece.name), held, say)
        size = await asyncio.to_thread(_append_file, held, partial)
        if not is_shared:
            held.unlink(missing_ok=True)
        return size

    # --- checkpoints ---

    async def _checkpoint(self, frame: RunTask, left: list[Left], say: Say, *, is_shared: bool) -> Path | None:
        """The folder on this disk; None where there is none that is complete. Of those at the API the next older one serves where one is damaged."""
        match = _CHECKPOINT.search(frame.checkpoint)
        if match is None or match[1] != frame.task:
            return None
        newest = Saved(int(match[2]), match[3])
        own = self._results_dir / attempt_folder(frame.task, newest.attempt)
        if (own / OWN_CHECKPOINTS / newest.name).is_dir():  # the same folder under another mount
            return own / OWN_CHECKPOINTS / newest.name
        if is_shared:
            is_listed = any((file.attempt, file.name) == (newest.attempt, newest.listing) for file in left)
            if not is_listed and (own / OWN_CHECKPOINTS).is_dir():  # it made room for the one after it, which the log was not told of
                return own / OWN_CHECKPOINTS / newest.name
            return own / CHECKPOINTS / newest.name if is_listed else None
        for saved in (newest, *_older(newest, left)):
            try:
                if (found := await self._fetched(frame.task, saved, left, say)) is not None:
                    return found
            except (TransferError, msgspec.MsgspecError) as error:
                if isinstance(error, TransferError) and error.retryable:
                    raise
                say(f"{saved.name} of attempt {saved.attempt} cannot be had whole: {error}")
        return None

    async def _fetched(self, task: str, saved: Saved, left: list[Left], say: Say) -> Path | None:
        """Each file with the digest that it was sent with; those of an attempt that ran at the API itself are compared by whoever reads them."""
        folder = self._results_dir / attempt_folder(task, saved.attempt) / CHECKPOINTS / saved.name
        names = [file.name for file in left if file.attempt == saved.attempt]
        if saved.listing in names:
            listed = folder.with_name(f"{saved.name}{LIST_SUFFIX}")
            await self._remote.fetch_to(self._url(task, saved.attempt, saved.listing), listed, say)
            for file in msgspec.json.decode(listed.read_bytes(), type=Complete).files:
                target = folder / _inside(file.path)
                if not target.is_file() or await asyncio.to_thread(file_sha256, target) != file.sha256:
                    await self._remote.fetch_to(self._url(task, saved.attempt, f"{CHECKPOINTS}/{saved.name}/{file.path}"), target, say, file.sha256)
            return folder
        inside = f"{OWN_CHECKPOINTS}/{saved.name}/"
        files = [name for name in names if name.startswith(inside)]
        for name in files:
            await self._remote.fetch_to(self._url(task, saved.attempt, name), folder / _inside(name[len(inside) :]), say)
        return folder if files else None

    # --- the API ---

    async def _left_at_api(self, task: str, say: Say) -> list[Left]:
        if self._remote.api is None:
            return []
        answer = await self._remote.small(self._remote.api.left_files(task), say)
        return msgspec.json.decode(answer, type=LeftFiles).files

    def _url(self, task: str, attempt: int, name: str) -> str:
        assert self._remote.api is not None
        return self._remote.api.attempt_file(task, attempt, name)


def _older(newest: Saved, left: list[Left]) -> list[Saved]:
    """Other checkpoints at the API, the furthest first."""
    found = {Saved(file.attempt, match[1] or match[2]) for file in left if (match := _OF_CHECKPOINT.match(file.name))}
    return sorted((saved for saved in found if 0 <= saved.step < newest.step), key=lambda saved: (saved.step, saved.attempt), reverse=True)


def _inside(path: str) -> str:
    """Raises TransferError for a path that leads out of its checkpoint."""
    if ".." in Path(path).parts or path.startswith("/"):
        raise TransferError(f"a checkpoint names the file {path!r}")
    return path


def _append_file(source: Path, target: Path) -> int:
    with source.open("rb") as read, target.open("ab") as write:
        before = write.tell()
        shutil.copyfileobj(read, write)
        return write.tell() - before
