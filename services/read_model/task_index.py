"""All tasks, wherever they are: a list from the read model with what changed since from memory, or from memory alone.

    index = TaskIndex(observer, log, read_model_path(settings.state_dir))
    page = await index.find(query);  task = index.get(id);  await observer.follow(index.note)

Memory has every open task and those that ended last; the read model has all, as they were about a second ago. Both are folds of one log, so a
task of the read model that did not change since its position is as it is now; those that did are taken from memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from mloc.core import codec, log_ids
from mloc.core.cluster import KEEP_ENDED, Cluster
from mloc.core.events import TaskSubmitted
from mloc.core.task import Task
from mloc.services.intake.task_query import TaskPage, TaskQuery, matches
from mloc.services.log.event_log import EventLog
from mloc.services.log.same_entry import has_entry
from mloc.services.observer import Observed, Observer
from mloc.services.read_model.outcomes import Summed
from mloc.services.read_model.paging import decode_cursor, encode_cursor, sort_key
from mloc.services.read_model.reader import Reader, Stored, Unreadable
from mloc.services.read_model.recent_changes import RecentChanges
from mloc.services.read_model.schema import Cursor

OWN_WRITES_SEC = 2.0
BEHIND_SEC = 10.0
_TRIES = 4


class TaskIndex:
    """`observer` is caught up or followed by the caller, with `note` as its `on_batch` where it is followed."""

    def __init__(self, observer: Observer, log: EventLog, path: Path, *, follows: bool = True) -> None:
        """`follows`: somebody else keeps the observer at the log's end; otherwise it is caught up here where needed."""
        self._observer = observer
        self._log = log
        self._follows = follows
        self._path = path
        self._lists, self._points = Reader(path), Reader(path)  # a long list keeps no look-up waiting
        self._changes = RecentChanges(self._position)
        self._trusted: tuple[str, int] | None = None  # generation of the read model and count of rebuilds that were compared

    def close(self) -> None:
        self._lists.close()
        self._points.close()

    def note(self, batch: Sequence[Observed]) -> None:
        """The observer folded a batch."""
        self._changes.note(self._observer.cluster)

    async def find(self, query: TaskQuery) -> TaskPage:
        """The page as of now. Raises QueryError, LogUnavailable."""
        try:
            cursor = self._lists.cursor()
            for _ in range(_TRIES):
                await self._check(cursor)
                overlay = self._changes.since(self._observer.cluster, cursor.position)
                cursor, page = await asyncio.to_thread(self._lists.find, query, overlay)
                if not log_ids.before(self._observer.cluster.position, cursor.position) and self._trusted == self._trust(cursor):
                    return _with(page, self._warnings(cursor))
            raise Unreadable("the read model is being built anew")
        except Unreadable as error:
            cluster = self._observer.cluster
            forgets = len(cluster.ended) >= KEEP_ENDED
            warnings = (f"{error}: of the finished tasks only the latest {len(cluster.ended):,} are shown",) if forgets else ()
            return _with(find_in_memory(cluster, query), warnings)

    def get(self, id: str) -> Task | None:
        """The task of this id, as memory has it, else the read model."""
        known = self._observer.cluster.tasks.get(id)
        return known if known is not None else self._stored_task(self._stored(id))

    def newest_named(self, name: str) -> Task | None:
        """The newest task of this name that is part of nothing."""
        known = newest_named(self._observer.cluster, name)
        if known is not None:
            return known
        try:
            return self._stored_task(self._points.newest_named(name))
        except Unreadable:
            return None

    def begun(self, start: str, most: int) -> list[Task]:
        """Tasks that are part of nothing and whose id starts so, at most so many."""
        found = {task.id: task for task in self._observer.cluster.tasks.values() if task.id.startswith(start) and not task.parent}
        with contextlib.suppress(Unreadable):
            found |= {task.id: task for task in self._points.begun(start, most) if task.id not in found}
        return list(found.values())[:most]

    async def spec(self, task: Task) -> bytes:
        """JSON of its spec: of an open task from memory, else from the log; empty where it is not there any more. Raises LogUnavailable."""
        if known := self._observer.cluster.spec_of(task):
            return known
        stored = self._stored(task.parent if task.shard else task.id)
        entry = await self._log.entry(stored.entry_id) if stored is not None and stored.entry_id else None
        event = codec.decode(entry.type, entry.payload) if entry is not None else None
        return bytes(event.spec) if isinstance(event, TaskSubmitted) else b""

    async def sums(self, spans: Sequence[tuple[int, int, int]], owner: str, *, by_owner: bool = False) -> tuple[Cursor, list[Summed]]:
        """See `Reader.sums`. Raises Unreadable: memory has no such sums."""
        cursor = self._lists.cursor()
        await self._check(cursor)
        return await asyncio.to_thread(self._lists.sums, spans, owner, by_owner=by_owner)

    # --- whether the read model is of this log ---

    def _position(self) -> str:
        try:
            return self._points.cursor().position
        except Unreadable:
            return log_ids.START

    def _trust(self, cursor: Cursor) -> tuple[str, int]:
        return cursor.generation, self._observer.rebuilds

    async def _check(self, cursor: Cursor) -> None:
        """Raises Unreadable where the read model is another log's or is not whole yet, LogUnavailable."""
        observer = self._observer
        if log_ids.before(observer.cluster.position, cursor.position):
            await self._observer_reaches(cursor.position)
        if cursor.log_id != observer.cluster.log_id and cursor.position != log_ids.START:
            raise Unreadable(f"the read model {self._path} is of another log")
        if not cursor.is_complete:
            raise Unreadable("the read model is being built")
        if self._trusted != self._trust(cursor):
            if not await has_entry(self._log, cursor.position, cursor.entry_sha256):
                raise Unreadable("the read model has entries that the log lost")
            self._trusted = self._trust(cursor)

    async def _observer_reaches(self, position: str) -> None:
        if not self._follows:
            await self._observer.catch_up()
        if not await self._observer.reach(position, OWN_WRITES_SEC if self._follows else 0.0):
            raise Unreadable("the read model is beyond the log that is here")

    def _warnings(self, cursor: Cursor) -> tuple[str, ...]:
        warnings = []
        behind_sec = (log_ids.time_ms(self._observer.cluster.position) - log_ids.time_ms(cursor.position)) / 1000
        if behind_sec > BEHIND_SEC and self._changes.is_lacking(cursor.position):
            warnings.append(f"the read model is {behind_sec:.0f} s behind: is `mloc metrics` running? Some tasks that ended since then are missing")
        if cursor.is_partial:
            warnings.append("the log's beginning was gone when the read model was built: older tasks are missing")
        return tuple(warnings)

    def _stored(self, id: str) -> Stored | None:
        try:
            return self._points.get(id)
        except Unreadable:
            return None

    @staticmethod
    def _stored_task(stored: Stored | None) -> Task | None:
        return stored.task if stored is not None else None


def newest_named(cluster: Cluster, name: str) -> Task | None:
    """The newest task of this name in memory that is part of nothing."""
    return next((task for task in reversed(cluster.tasks.values()) if task.name == name and not task.parent), None)


def find_in_memory(cluster: Cluster, query: TaskQuery) -> TaskPage:
    """The same list of the tasks that memory has. Raises QueryError."""
    after = decode_cursor(query)
    found = [(sort_key(task, query.sort), task) for task in _candidates(cluster, query) if matches(task, query)]
    found.sort(key=lambda one: one[0])
    total = len(found)
    if after is not None:
        found = [one for one in found if one[0] > after]
    start = 0 if after is not None else (query.page - 1) * query.page_size
    shown = found[start : start + query.page_size]
    next_cursor = encode_cursor(query, shown[-1][0]) if len(found) > start + len(shown) and shown else ""
    return TaskPage([task for _, task in shown], total, next_cursor=next_cursor)


def _candidates(cluster: Cluster, query: TaskQuery) -> Iterator[Task]:
    if query.phases is None:
        yield from cluster.tasks.values()
        return
    for phase in query.phases:
        for id in cluster.phase(phase):
            yield cluster.tasks[id]


def _with(page: TaskPage, warnings: tuple[str, ...]) -> TaskPage:
    return replace(page, warnings=warnings) if warnings else page
