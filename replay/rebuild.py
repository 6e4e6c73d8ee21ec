"""The cluster state from the log alone, up to any point of it."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator

from mloc.core import codec, log_ids, moment
from mloc.core.cluster import Cluster
from mloc.core.codec import UnknownEvent
from mloc.core.events import Event
from mloc.core.fold import evolve
from mloc.core.moment import AtOrdinal, Moment
from mloc.replay.entries import entries
from mloc.services.log.event_log import Entry, EventLog

Look = Callable[[Entry, Event | UnknownEvent, Cluster], None]
OnProgress = Callable[[int, str], None]  # (entries folded, id of the last one)


class LogDamaged(Exception):
    """An entry cannot be read, or the log does not begin where a log begins; the message says which."""


class Rebuilt:
    """A state, with what it took to fold it."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.events = 0
        self.seconds = 0.0
        self.by_type: dict[str, int] = {}

    @property
    def events_per_sec(self) -> float:
        return self.events / self.seconds if self.seconds else 0.0

    def fold(self, entry: Entry) -> Event | UnknownEvent:
        """Fold one entry; gives its event. Raises LogDamaged."""
        try:
            event = codec.decode(entry.type, entry.payload)
        except codec.CodecError as error:
            raise LogDamaged(f"entry {entry.id}: {error}") from error
        if self.events == 0 and entry.type != "LogStarted":
            raise LogDamaged(
                f"the log begins with {entry.type} at {entry.id}, not with LogStarted: its beginning was trimmed, "
                "and without it no state can be rebuilt"
            )
        self.events += 1
        self.by_type[entry.type] = self.by_type.get(entry.type, 0) + 1
        evolve(self.cluster, entry.id, event)
        return event


async def rebuild(
    log: EventLog, at: Moment | None = None, on_progress: OnProgress | None = None, until: str | None = None, look: Look | None = None
) -> Rebuilt:
    """Fold the whole log, or as much of it as belongs to `at`; `look` sees each event after it was folded. Raises LogDamaged, LogUnavailable."""
    rebuilt = Rebuilt()
    most = at.count if isinstance(at, AtOrdinal) else None
    bound = until if at is None or isinstance(at, AtOrdinal) else await _bound(log, moment.last_id(at))
    began = time.perf_counter()
    with collector_off():
        async for batch in entries(log, until=bound):
            for entry in batch if most is None else batch[: most - rebuilt.events]:
                event = rebuilt.fold(entry)
                if look is not None:
                    look(entry, event, rebuilt.cluster)
            if most is not None and rebuilt.events >= most:
                break
            if on_progress:
                on_progress(rebuilt.events, batch[-1].id)
    rebuilt.seconds = time.perf_counter() - began
    return rebuilt


async def _bound(log: EventLog, id: str) -> str:
    """The id itself, or the log's end where that comes first."""
    last = (await log.ends())[1]
    return id if log_ids.before(id, last) else last


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """No cyclic garbage collection meanwhile: a million kept values make it the largest cost. What was kept is left out of later ones."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.freeze()
        if was_on:
            gc.enable()
