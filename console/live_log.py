"""The live event log as a Source. It opens and opens again by itself: there may be no server yet, or not now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from mloc.console.sources import RequestRefused
from mloc.core.events import Event
from mloc.services.log.event_log import MAX_BATCH, Entry, EventLog, Heartbeat, LogUnavailable, ServerChanged, TelemetryPoint
from mloc.services.settings import Settings
from mloc.services.up.record import read_up_record

PATIENCE_SEC = 1.0
CLOCK_EVERY_SEC = 30.0
MOST_FILE_BYTES = 8 * 1024 * 1024


class LiveLog:
    """Two connections: one follows, the other looks back and asks, so that neither waits for the other nor learns in its place that the
    server changed."""

    is_live = True
    name = "live"

    def __init__(self, settings: Settings, *, read_only: bool = False) -> None:
        self._settings = settings
        self._read_only = read_only
        self._following: EventLog | None = None
        self._asking: EventLog | None = None
        self._clock_offset_ms = 0.0
        self._clock_read = 0.0

    def now_ms(self) -> int:
        return int(time.time() * 1000 + self._clock_offset_ms)

    # --- reading ---

    async def read(self, after: str, count: int = MAX_BATCH, block_ms: int = 0) -> list[Entry]:
        return await self._follow().read(after, count, block_ms)

    async def entry(self, id: str) -> Entry | None:
        return await self._follow().entry(id)

    async def run_id(self) -> str:
        return await self._follow().run_id()

    async def read_page(self, after: str, count: int) -> list[Entry]:
        log = self._ask()
        try:
            return await log.read(after, count)
        except ServerChanged:  # who follows compares and tells; looking at the log again is all that is needed here
            await log.run_id()
            return await log.read(after, count)

    async def look_up(self, id: str) -> Entry | None:
        return await self._ask().entry(id)

    async def read_telemetry(self, task: str, after: str, count: int = 500) -> list[tuple[str, TelemetryPoint]]:
        return await self._ask().read_telemetry(task, after, count)

    async def read_heartbeats(self, after: str) -> list[tuple[str, Heartbeat]]:
        log = self._ask()
        if time.monotonic() - self._clock_read > CLOCK_EVERY_SEC or not self._clock_read:
            self._clock_offset_ms = await log.now_ms() - time.time() * 1000
            self._clock_read = time.monotonic()
        return await log.read_heartbeats(after)

    async def result_file(self, task: str, name: str) -> bytes | None:
        record = read_up_record(self._settings.state_dir)
        folder = Path(record.results) if record is not None else self._settings.host_results_dir
        if "/" in task or task.startswith(".") or ".." in Path(name).parts:
            return None
        return await asyncio.to_thread(_file_start, folder / task / name)

    # --- asking ---

    async def submit(self, events: Sequence[Event]) -> None:
        if self._read_only:
            raise RequestRefused("this console is read-only")
        await self._ask().submit(events)

    async def close(self) -> None:
        for log in (self._following, self._asking):
            if log is not None:
                await log.close()

    def _follow(self) -> EventLog:
        if self._following is None:
            self._following = self._open()
        return self._following

    def _ask(self) -> EventLog:
        if self._asking is None:
            self._asking = self._open()
        return self._asking

    def _open(self) -> EventLog:
        from mloc.services.log.connection import open_log  # Redis' client takes as long to import as all the rest: after the first paint
        from mloc.services.server.address import NoServerError

        try:
            return open_log(self._settings, "console", patience_sec=PATIENCE_SEC)
        except NoServerError as error:
            raise LogUnavailable(str(error)) from error


def _file_start(path: Path) -> bytes | None:
    try:
        if path.is_dir():  # a task's logs/: the last one that was written
            path = max((file for file in path.iterdir() if file.is_file()), key=lambda file: file.stat().st_mtime, default=path)
        with path.open("rb") as file:
            return file.read(MOST_FILE_BYTES)
    except OSError:
        return None


