"""One incarnation's inbox: which entries are new, which attempts wait to be started, which are refused because they were stopped before.

The same entry may be delivered more than once (pending entries are read again), so every entry is known by its id until it is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec
import structlog

from mloc.core.answers import Dispatch
from mloc.core.events import AttemptStopRequested, TaskDispatched
from mloc.services.log.event_log import MAX_BATCH, InboxEntry
from mloc.services.worker.attempt import Attempt, AttemptKey
from mloc.services.worker.device_table import DeviceTable

_decode_dispatched = msgspec.json.Decoder(TaskDispatched).decode
_decode_extra = msgspec.json.Decoder(Dispatch).decode
_decode_stop = msgspec.json.Decoder(AttemptStopRequested).decode

_log = structlog.get_logger("worker")


class Stop(NamedTuple):
    """A stop that came in. `waiting` is its attempt, if that waited here; it will never start now."""

    key: AttemptKey
    reason: str
    grace_sec: float
    waiting: Attempt | None


class Inbox:
    def __init__(self, incarnation: int, table: DeviceTable) -> None:
        self.incarnation = incarnation
        self._table = table
        self._known: set[str] = set()
        self._light: dict[AttemptKey, Attempt] = {}
        self._heavy: dict[AttemptKey, Attempt] = {}
        self._refused: set[AttemptKey] = set()
        self.to_acknowledge: list[str] = []  # entries that need no report (stops, refused dispatches)

    def __len__(self) -> int:
        """Attempts that wait to be started."""
        return len(self._light) + len(self._heavy)

    def take(self, entries: Sequence[InboxEntry]) -> list[Stop]:
        """Queue the new dispatches; gives the new stops."""
        stops: list[Stop] = []
        for entry in entries:
            if entry.id in self._known:
                continue
            self._known.add(entry.id)
            try:
                if entry.type == "TaskDispatched":
                    self._queue(entry)
                elif entry.type == "AttemptStopRequested":
                    self.to_acknowledge.append(entry.id)
                    if stop := self._stop(_decode_stop(entry.payload)):
                        stops.append(stop)
                else:
                    self.to_acknowledge.append(entry.id)
            except msgspec.MsgspecError as error:
                _log.error("an inbox entry cannot be read; is the scheduler newer than this worker?", entry=entry.id, error=str(error))
        return stops

    def pick(self, room_for_light: int) -> list[Attempt]:
        """Attempts that may start now, in order, at most one call's worth; their devices and slots are theirs from here on."""
        picked: list[Attempt] = []
        if self._heavy:
            picked = self._table.take_those_with_room(list(islice(self._heavy.values(), MAX_BATCH)))
            for attempt in picked:
                del self._heavy[attempt.key]
        picked += _pop_first(self._light, min(room_for_light, MAX_BATCH - len(picked)))
        for attempt in picked:
            attempt.stage = "starting"
        return picked

    def take_all_waiting(self) -> list[Attempt]:
        """Those that will not be started, because the worker leaves."""
        waiting = [*self._light.values(), *self._heavy.values()]
        self._light.clear()
        self._heavy.clear()
        return waiting

    def refuse(self, key: AttemptKey) -> None:
        """Its stop was answered: should its dispatch come after that, it is not started."""
        self._refused.add(key)

    def forget(self, entry_ids: Iterable[str]) -> None:
        """The log has removed these entries."""
        self._known.difference_update(entry_ids)

    def _queue(self, entry: InboxEntry) -> None:
        event = _decode_dispatched(entry.payload)
        key = (event.task, event.attempt)
        if event.incarnation != self.incarnation or key in self._refused:
            self.to_acknowledge.append(entry.id)
            return
        attempt = Attempt(key, entry.id, event.incarnation, _decode_extra(entry.extra), event.devices, event.joins)
        (self._light if attempt.dispatch.light else self._heavy)[key] = attempt

    def _stop(self, event: AttemptStopRequested) -> Stop | None:
        if event.incarnation != self.incarnation:
            return None
        key = (event.task, event.attempt)
        return Stop(key, event.reason, event.grace_sec, self._light.pop(key, None) or self._heavy.pop(key, None))


def _pop_first(queue: dict[AttemptKey, Attempt], count: int) -> list[Attempt]:
    if count >= len(queue):
        first = list(queue.values())
        queue.clear()
        return first
    return [queue.pop(key) for key in list(islice(queue, count))]
