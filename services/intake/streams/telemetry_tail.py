"""Who waits for log lines of running tasks is woken when there are some: one look at the server for all, five times a second.

That is as often as a worker sends them. While nobody waits nothing is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mloc.core import log_ids
from mloc.services.log.event_log import EventLog, LogError

PACE_SEC = 0.2


class _Waiting(NamedTuple):
    after: Mapping[str, str]
    is_over: Callable[[], bool]


class TelemetryTail:
    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._waiting: dict[asyncio.Future[None], _Waiting] = {}
        self._looking: asyncio.Task[None] | None = None
        self.closed = False

    async def news(self, after: Mapping[str, str], is_over: Callable[[], bool], timeout_sec: float) -> bool:
        """Wait until one of the tasks has telemetry after the id given for it, or `is_over` says so; False when neither came in time."""
        if self.closed:
            return True
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[woken] = _Waiting(after, is_over)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(timeout_sec):
                await woken
        except TimeoutError:
            return False
        finally:
            del self._waiting[woken]
        return True

    def close(self) -> None:
        """All who wait are woken."""
        self.closed = True
        for woken in self._waiting:
            _wake(woken)

    async def _look(self) -> None:
        while self._waiting and not self.closed:
            await asyncio.sleep(PACE_SEC)
            asked: dict[str, str] = {}
            for waiting in self._waiting.values():
                for task, id in waiting.after.items():
                    if task not in asked or log_ids.before(id, asked[task]):
                        asked[task] = id
            try:
                news = await self._log.telemetry_news(asked)
            except LogError:
                news = set()  # the fold of the log says what the trouble is
            for woken, waiting in self._waiting.items():
                if not news.isdisjoint(waiting.after) or waiting.is_over():
                    _wake(woken)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
