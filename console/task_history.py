"""The events of one task, read from the part of the log in which it lived, and the new ones as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mloc.console.chronicle import Chronicle
from mloc.console.time_machine import TimeMachine, event_of
from mloc.core import event_line
from mloc.core.events import Event, TaskSubmitted
from mloc.core.moment import AtTime
from mloc.core.task import FINAL, Task
from mloc.services.log.event_log import LogError
from mloc.services.observer import Observed

AT_ONCE = 1024  # entries read before others may run
MOST = 5000  # events kept


class TaskHistory:
    """`events` are (id, event) in order, of the task and of what is below it; `read_share` is 1.0 once the past is read."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.events: list[tuple[str, Event]] = []
        self.read_share = 0.0
        self._new: list[tuple[str, Event]] = []

    def seen(self, batch: Sequence[Observed]) -> None:
        """Live events, from the moment on in which `read_past` began."""
        fresh = [(id, event) for id, event, _ in batch if isinstance(event, Event) and self._is_mine(event)]
        (self.events if self.read_share >= 1.0 else self._new).extend(fresh)
        del self.events[:-MOST]

    async def read_past(self, machine: TimeMachine, chronicle: Chronicle, task: Task | None) -> None:
        """All events up to now. `task` says when it lived."""
        last = len(chronicle)
        first = chronicle.ordinal_of(AtTime(task.submitted_ms - 1)) + 1 if task else 1
        if task is not None and task.phase in FINAL:
            last = min(last, chronicle.ordinal_of(AtTime(task.since_ms)))
        named = b'"' + self.task.encode()
        at = first
        while at <= last:
            try:
                entries = await machine.entries(at, min(at + AT_ONCE - 1, last))
            except LogError:
                await asyncio.sleep(0.5)  # the banner tells it
                continue
            if not entries:
                break
            for entry in entries:
                if named in entry.payload and isinstance(event := event_of(entry), Event) and self._is_mine(event):
                    self.events.append((entry.id, event))
            at += len(entries)
            self.read_share = min(0.99, (at - first) / max(1, last - first + 1))
            await asyncio.sleep(0)
        self.events += self._new
        self._new = []
        self.read_share = 1.0

    def spec(self) -> bytes:
        """JSON of the spec as it was submitted; b"" where its event was not read."""
        for _, event in self.events:
            if isinstance(event, TaskSubmitted) and event.task == self.task:
                return bytes(event.spec)
        return b""

    def _is_mine(self, event: Event) -> bool:
        task = event_line.task_of(event)
        return task == self.task or task.startswith(f"{self.task}.")
