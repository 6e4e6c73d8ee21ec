"""Log lines and metric points on their way out: bounded for each task, at most five batches a second, with what was dropped in sight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from msgspec.structs import replace

from mloc.core.host_frames import Telemetry
from mloc.services.clock import Clock
from mloc.services.log.event_log import EventLog, LogError, TelemetryPoint
from mloc.services.worker.attempt import AttemptKey
from mloc.services.worker.scrubbing import scrub_text

POINTS_A_TASK = 1000  # that wait
POINTS_A_BATCH = 200  # of one task
TASKS_WAITING = 1000
PAUSE_SEC = 0.2
LINE_LIMIT = 4000  # characters


class TelemetryBuffer:
    """The oldest points are dropped first: what a person wants to see is how it ended."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[TelemetryPoint]] = {}
        self._dropped: dict[str, int] = {}
        self._wake = asyncio.Event()

    def line(self, key: AttemptKey, text: str) -> None:
        self._add(key[0], TelemetryPoint(key[1], line=_shortened(text)))

    def points(self, frame: Telemetry, secrets: tuple[str, ...]) -> None:
        for text in frame.lines:
            self._add(frame.task, TelemetryPoint(frame.attempt, line=_shortened(scrub_text(text, secrets))))
        if frame.metrics or frame.step:
            self._add(frame.task, TelemetryPoint(frame.attempt, step=frame.step, total_steps=frame.total_steps, metrics=frame.metrics))

    async def send_forever(self, log: EventLog, clock: Clock) -> None:
        while True:
            await self._wake.wait()
            await self.flush(log)
            await clock.sleep(PAUSE_SEC)

    async def flush(self, log: EventLog) -> None:
        """Send one batch. What the log does not take now is gone: telemetry is worth no wait."""
        self._wake.clear()
        batch: list[tuple[str, TelemetryPoint]] = []
        for task, waiting in list(self._waiting.items()):
            for position in range(min(len(waiting), POINTS_A_BATCH)):
                point = waiting.popleft()
                dropped = self._dropped.pop(task, 0) if position == 0 else 0
                batch.append((task, replace(point, dropped=dropped) if dropped else point))
            if waiting:
                self._wake.set()
            else:
                del self._waiting[task]
        if batch:
            try:
                await log.append_telemetry(batch)
            except LogError:
                for task, point in batch:
                    self._dropped[task] = self._dropped.get(task, 0) + 1 + point.dropped

    async def flush_of(self, log: EventLog, tasks: Iterable[str]) -> None:
        """Send all that waits of these tasks, so that what an attempt said is in the log before its end is."""
        for task in tasks:
            while task in self._waiting:
                await self.flush(log)

    def _add(self, task: str, point: TelemetryPoint) -> None:
        waiting = self._waiting.get(task)
        if waiting is None:
            if len(self._waiting) >= TASKS_WAITING:
                return
            waiting = self._waiting[task] = deque()
        if len(waiting) >= POINTS_A_TASK:
            waiting.popleft()
            self._dropped[task] = self._dropped.get(task, 0) + 1
        waiting.append(point)
        self._wake.set()


def _shortened(text: str) -> str:
    return text if len(text) <= LINE_LIMIT else text[:LINE_LIMIT] + " …"
