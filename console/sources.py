"""Where the console gets history from: a live log, an archive file, a list in a test. A screen does not know which one it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mloc.core.events import Event
from mloc.services.log.event_log import MAX_BATCH, Entry, Heartbeat, TelemetryPoint


class RequestRefused(Exception):
    """A request cannot be made here; the message says why."""


class Source(Protocol):
    """An Observer follows it by `read`, `entry` and `run_id`, which are as an EventLog's; all reading calls may raise LogUnavailable."""

    name: str  # for a person: where this history comes from
    is_live: bool  # whether entries may still come

    async def read(self, after: str, count: int = MAX_BATCH, block_ms: int = 0) -> list[Entry]: ...

    async def read_page(self, after: str, count: int) -> list[Entry]:
        """The same entries, for looking back beside who follows."""

    async def entry(self, id: str) -> Entry | None: ...

    async def run_id(self) -> str: ...

    async def look_up(self, id: str) -> Entry | None:
        """The same entry, for looking back."""

    def now_ms(self) -> int:
        """The log's clock, as well as it is known here."""

    async def submit(self, events: Sequence[Event]) -> None:
        """Append requests. Raises RequestRefused, LogError."""

    async def read_telemetry(self, task: str, after: str, count: int = 500) -> list[tuple[str, TelemetryPoint]]: ...

    async def read_heartbeats(self, after: str) -> list[tuple[str, Heartbeat]]: ...

    async def result_file(self, task: str, name: str) -> bytes | None:
        """A file of the task's published result (`responses.json`, `logs/…`); None where it is not to be had from here."""

    async def close(self) -> None: ...
