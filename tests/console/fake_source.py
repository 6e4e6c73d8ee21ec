"""A Source for tests: a history that grows when the test says so, and remembers what was asked of it."""

from __future__ import annotations

from collections.abc import Sequence

from mloc.console.listed_entries import ListedEntries
from mloc.core.events import Event
from mloc.services.log.event_log import MAX_BATCH, Entry, LogUnavailable
from tests.histories import History


class FakeSource(ListedEntries):
    is_live = True

    def __init__(self, history: History) -> None:
        super().__init__(history.entries, "fake")
        self.history = history
        self.asked: list[Event] = []
        self.away = ""

    async def read(self, after: str, count: int = MAX_BATCH, block_ms: int = 0) -> list[Entry]:
        if self.away:
            raise LogUnavailable(self.away)
        return await super().read(after, count, min(block_ms, 20))

    def now_ms(self) -> int:
        return self.history.now_ms + 3000

    async def submit(self, events: Sequence[Event]) -> None:
        self.asked += events
        for event in events:
            self.history.add(event)
