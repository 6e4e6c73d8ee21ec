"""A follower of the log: what it wants, from where, until when. It goes at its own pace and skips and repeats nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import NamedTuple

from mloc.core import log_ids
from mloc.core.codec import EVENT_TYPES
from mloc.core.language.errors import did_you_mean
from mloc.services.intake.streams.event_tail import TROUBLE_SEC, EventTail, Followed
from mloc.services.intake.task_query import QueryError


class Wanted(NamedTuple):
    """Which events: of one task and its parts, of some types, of one worker. Empty: all."""

    task: str = ""
    types: frozenset[str] = frozenset()
    worker: str = ""

    @property
    def all(self) -> bool:
        return not (self.task or self.types or self.worker)

    def takes(self, entry: Followed) -> bool:
        if self.types and entry.type not in self.types:
            return False
        if self.worker and entry.worker != self.worker:
            return False
        return not self.task or entry.task == self.task or entry.task.startswith(f"{self.task}.")


class Step(NamedTuple):
    """What came: the events that are wanted, and the position up to which nothing else is. Empty when it was quiet for a while."""

    events: list[Followed]
    position: str


def wanted_of(query: Mapping[str, str]) -> Wanted:
    """The filters of a request. Raises QueryError."""
    types = frozenset(part.strip() for part in query.get("type", "").split(",") if part.strip())
    for name in types:
        if name not in EVENT_TYPES:
            nearest = did_you_mean(name, list(EVENT_TYPES)) or f"there are {', '.join(sorted(EVENT_TYPES))}"
            raise QueryError(f"there is no event type {name!r}; {nearest}")
    return Wanted(query.get("task", ""), types, query.get("worker", ""))


async def follow(
    tail: EventTail, position: str, wanted: Wanted, *, quiet_sec: float, end_ms: Callable[[], int | None] = lambda: None
) -> AsyncIterator[Step]:
    """Steps after `position` until the tail is closed, or all is out and `end_ms` has an answer: the time after which nothing is wanted.

    Raises Gap where entries are gone that it has not seen."""
    with tail.following():
        rebuilds, exact = tail.rebuilds, False
        while not tail.closed:
            end = end_ms()
            if end is not None and log_ids.time_ms(position) > end:
                return
            entries = tail.after(position) if rebuilds == tail.rebuilds else None
            if entries is None:
                rebuilds = tail.rebuilds
                entries = await tail.page(position, exact=exact)
            if entries:
                position, exact = entries[-1].id, True
                yield Step(entries if wanted.all else [entry for entry in entries if wanted.takes(entry)], position)
            elif entries is None:  # the log cannot be read now
                await tail.moved(TROUBLE_SEC)
                yield Step([], position)
            elif end is not None:
                return
            elif not await tail.moved(quiet_sec):
                yield Step([], position)


async def position_of(tail: EventTail, *, last_event_id: str, after: str, start: str) -> str:
    """Where a stream begins: behind the event that the reader got last, behind an id, at the start or end of the log. Raises Gap, QueryError."""
    if start not in ("start", "now"):
        raise QueryError(f"from takes start or now, not {start!r}")
    if last_event_id:
        await tail.check(last_event_id, exact=True)
        return last_event_id
    if after:
        await tail.check(after, exact=False)
        return after
    return await (tail.start() if start == "start" else tail.end())

