"""The projection that brings published results to object storage, in the order of the log, behind the trees on disk.

The tree on this machine's disk stays what everybody works with; nobody waits for the mirror. A store that cannot be reached is tried again for
ever, and its cursor stays where it is, so that nothing is left out when it is back. Where the log cannot tell what is new (the first start, a
server that lost its tail), every tree is compared.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
from msgspec import Struct

from mloc.core import codec, log_ids
from mloc.core.events import ArtifactStored, ResultPublished, TaskCancelled, TaskDeadLettered, TaskTimedOut
from mloc.services.clock import Clock
from mloc.services.durable_files import write_durably
from mloc.services.log.event_log import MAX_BATCH, Entry, EventLog, LogError, ServerChanged
from mloc.services.mirror.object_store import StoreTrouble
from mloc.services.results.folders import sealed
from mloc.services.results.tree_cursor import read_state

AT_ONCE = 4
LOOK_SEC = 0.5
FIRST_RETRY_SEC, LONGEST_RETRY_SEC = 1.0, 60.0
REMIND_SEC = 600.0
_TELLING = (ResultPublished, TaskDeadLettered, TaskCancelled, TaskTimedOut, ArtifactStored)  # what the trees' own projection writes for
_TYPES = frozenset(kind.__struct_config__.tag for kind in _TELLING)


class TreeStore(Protocol):
    """What the mirror needs of a store."""

    def bring(self, tree: Path, name: str) -> int: ...


class MirrorState(Struct, omit_defaults=True):
    """What is kept on disk, and what `mloc doctor` shows."""

    url: str = ""
    position: str = ""  # in the log, up to where everything is in the store; "" for the first time
    trees: int = 0  # that were brought
    trouble: str = ""  # why nothing can be brought now


def state_path(state_dir: Path) -> Path:
    return state_dir / "results_mirror.json"


def load_state(state_dir: Path) -> MirrorState:
    try:
        return msgspec.json.decode(state_path(state_dir).read_bytes(), type=MirrorState)
    except (OSError, msgspec.MsgspecError):
        return MirrorState()


class Mirror:
    """`trees` is the file of the trees' own cursor: what the log has told of before that is on disk."""

    def __init__(self, log: EventLog, clock: Clock, store: TreeStore, url: str, results_dir: Path, state_dir: Path, trees: Path) -> None:
        self._log, self._clock, self._store = log, clock, store
        self._results_dir, self._state_dir, self._trees = results_dir, state_dir, trees
        known = load_state(state_dir)
        self.state = known if known.url == url else MirrorState(url)
        self._say = structlog.get_logger().bind(service="mirror")
        self._said_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set."""
        if not self.state.position:
            await self._compare_all(stop)
        while not stop.is_set():
            try:
                tasks, position = await self._next()
            except ServerChanged:
                await self._compare_all(stop)
                continue
            except LogError as error:
                self._say.debug("the mirror waits for the event log", reason=str(error))
                await self._pause(LOOK_SEC, stop)
                continue
            if not await self._bring(tasks, stop):
                return
            if position != self.state.position:
                self.state.position = position
                await self._save()
            else:
                await self._pause(LOOK_SEC, stop)

    async def _next(self) -> tuple[list[str], str]:
        """Tasks whose trees are new on disk, and the position behind what tells of them."""
        position, tasks = self.state.position, list[str]()
        written = await asyncio.to_thread(self._written)
        for entry in await self._log.read(position, MAX_BATCH):
            if entry.type in _TYPES and log_ids.before(written, entry.id):
                break
            position = entry.id
            tasks += _task_of(entry)
        return tasks, position

    def _written(self) -> str:
        state = read_state(self._trees)
        return state.written if state is not None else log_ids.START

    async def _compare_all(self, stop: asyncio.Event) -> None:
        """Every tree on disk; what the log says from before now on is looked at again after that."""
        while not stop.is_set():
            try:
                await self._log.run_id()
                _, last = await self._log.ends()
                break
            except LogError:
                await self._pause(LOOK_SEC, stop)
        else:
            return
        written = await asyncio.to_thread(self._written)
        names = await asyncio.to_thread(_names, self._results_dir)
        if await self._bring(names, stop):
            self.state.position = min(last, written, key=log_ids.key)
            await self._save()

    # --- bringing ---

    async def _bring(self, tasks: Iterable[str], stop: asyncio.Event) -> bool:
        """False where it was stopped before all were there."""
        waiting, pause = list(dict.fromkeys(tasks)), FIRST_RETRY_SEC
        while waiting and not stop.is_set():
            some, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            outcomes = await asyncio.gather(*(asyncio.to_thread(self._bring_one, name) for name in some), return_exceptions=True)
            self.state.trees += sum(outcome is True for outcome in outcomes)
            failed = [(name, outcome) for name, outcome in zip(some, outcomes, strict=True) if isinstance(outcome, BaseException)]
            for _, error in failed:
                if not isinstance(error, StoreTrouble | OSError):
                    raise error
            if failed:
                await self._troubled(str(failed[0][1]), len(failed) + len(waiting))
                waiting = [name for name, _ in failed] + waiting
                await self._pause(pause, stop)
                pause = min(pause * 2, LONGEST_RETRY_SEC)
            else:
                await self._well()
                pause = FIRST_RETRY_SEC
        return not waiting

    def _bring_one(self, name: str) -> bool:
        """Whether there was something to bring: a shard has no tree of its own; one that was cleared away is not missed."""
        tree = self._results_dir / name
        if sealed(tree) is None:
            return False
        try:
            return self._store.bring(tree, name) > 0
        except FileNotFoundError:
            if tree.exists():
                raise
            return False

    async def _troubled(self, why: str, behind: int) -> None:
        now = self._clock.monotonic()
        if not self.state.trouble or now - self._said_at >= REMIND_SEC:
            self._said_at = now
            self._say.warning("results cannot be brought to object storage; it is tried again", url=self.state.url, reason=why, trees=behind)
        if self.state.trouble != why:
            self.state.trouble = why
            await self._save()

    async def _well(self) -> None:
        if self.state.trouble:
            self._say.info("object storage takes results again", url=self.state.url)
            self.state.trouble = ""
            await self._save()

    async def _save(self) -> None:
        try:
            await asyncio.to_thread(write_durably, state_path(self._state_dir), [msgspec.json.encode(self.state)])
        except OSError as error:
            self._say.error("the cursor of the mirror could not be saved; free some space", reason=error.strerror or str(error))

    async def _pause(self, seconds: float, stop: asyncio.Event) -> None:
        stopped = asyncio.ensure_future(stop.wait())
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({stopped, sleeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (stopped, sleeping):
                one.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await one


def _task_of(entry: Entry) -> list[str]:
    if entry.type not in _TYPES:
        return []
    event = codec.decode(entry.type, entry.payload)
    return [event.task] if isinstance(event, _TELLING) else []


def _names(results_dir: Path) -> list[str]:
    try:
        return sorted(path.name for path in results_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        return []
