"""A history that is all in memory: of an archive file, or of a test that appends to it."""

from __future__ import annotations

import asyncio
import bisect
import io
from collections.abc import Sequence
from pathlib import Path

import msgspec
import zstandard

from mloc.console.sources import RequestRefused
from mloc.core import log_ids
from mloc.core.events import Event
from mloc.services.log.event_log import MAX_BATCH, Entry, Heartbeat, TelemetryPoint


class ArchiveError(Exception):
    """The file is no archive of entries; the message says where it stops to be one."""


class ListedEntries:
    """A Source over a list of entries in order."""

    is_live = False

    def __init__(self, entries: list[Entry], name: str) -> None:
        self.name = name
        self.entries = entries
        self.telemetry: dict[str, list[tuple[str, TelemetryPoint]]] = {}
        self.heartbeats: list[tuple[str, Heartbeat]] = []
        self.files: dict[tuple[str, str], bytes] = {}

    async def read(self, after: str, count: int = MAX_BATCH, block_ms: int = 0) -> list[Entry]:
        start = bisect.bisect_right(self.entries, log_ids.key(after), key=lambda entry: log_ids.key(entry.id))
        if start == len(self.entries) and block_ms:
            await asyncio.sleep(block_ms / 1000)
        return self.entries[start : start + count]

    async def read_page(self, after: str, count: int) -> list[Entry]:
        return await self.read(after, count)

    async def entry(self, id: str) -> Entry | None:
        start = bisect.bisect_left(self.entries, log_ids.key(id), key=lambda entry: log_ids.key(entry.id))
        return self.entries[start] if start < len(self.entries) and self.entries[start].id == id else None

    async def run_id(self) -> str:
        return ""

    async def look_up(self, id: str) -> Entry | None:
        return await self.entry(id)

    def now_ms(self) -> int:
        return log_ids.time_ms(self.entries[-1].id) if self.entries else 0

    async def submit(self, events: Sequence[Event]) -> None:
        raise RequestRefused("this is an archive: nothing can be asked of it")

    async def read_telemetry(self, task: str, after: str, count: int = 500) -> list[tuple[str, TelemetryPoint]]:
        return [point for point in self.telemetry.get(task, []) if log_ids.before(after, point[0])][:count]

    async def read_heartbeats(self, after: str) -> list[tuple[str, Heartbeat]]:
        return [beat for beat in self.heartbeats if log_ids.before(after, beat[0])]

    async def result_file(self, task: str, name: str) -> bytes | None:
        return self.files.get((task, name))

    async def close(self) -> None: ...


def open_archive(path: Path) -> ListedEntries:
    """Entries of a file with a line `["<id>", {event}]` each, plain or `.zst`. Raises ArchiveError, OSError."""
    raw = path.read_bytes()
    if path.suffix == ".zst":
        try:
            raw = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)).read()
        except zstandard.ZstdError as error:
            raise ArchiveError(f"{path} is not compressed as its name says: {error}") from error
    entries: list[Entry] = []
    line_of = msgspec.json.Decoder(tuple[str, msgspec.Raw]).decode
    type_of = msgspec.json.Decoder(_Typed).decode
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            id, event = line_of(line)
            log_ids.key(id)
            entries.append(Entry(id, type_of(event).type, bytes(event)))
        except (msgspec.MsgspecError, ValueError) as error:
            raise ArchiveError(f'{path} line {number} is no entry of a log, which looks like ["1700000000000-0", {{"type": …}}]: {error}') from error
    return ListedEntries(entries, f"archive {path.name}")


class _Typed(msgspec.Struct):
    type: str
