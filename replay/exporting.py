"""A part of the log as a file: a line `["<id>", {event}]` each, which `mloc-console --archive` shows and any program reads."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import zstandard
from msgspec import Struct

from mloc.core import log_ids
from mloc.replay.entries import entries
from mloc.replay.rebuild import OnProgress
from mloc.services.durable_files import sync_folder
from mloc.services.log.event_log import Entry, EventLog

STANDARD_OUTPUT = Path("-")


class Exported(Struct, frozen=True):
    """What was written. `first` and `last` are ids; "" where nothing was there."""

    path: str
    entries: int
    bytes: int
    first: str
    last: str


async def export(
    log: EventLog, path: Path, out: BinaryIO, *,
    after: str = log_ids.START, until: str | None = None, task: str = "", on_progress: OnProgress | None = None,
) -> Exported:  # fmt: skip
    """Write entries after one id up to another, or only those that name a task, to a file (compressed where it ends in .zst), or for `-` to `out`.

    The file appears whole or not at all. Raises LogUnavailable, OSError."""
    chosen = _chosen(log, after, until, task, on_progress)
    if path == STANDARD_OUTPUT:
        return await _write(chosen, out, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            if path.suffix == ".zst":
                with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as compressed:
                    written = await _write(chosen, compressed, path)
            else:
                written = await _write(chosen, file, path)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)
    return written


async def _chosen(log: EventLog, after: str, until: str | None, task: str, on_progress: OnProgress | None) -> AsyncIterator[list[Entry]]:
    named, read = f'"{task}"'.encode(), 0
    async for batch in entries(log, after, until):
        read += len(batch)
        yield [entry for entry in batch if named in entry.payload] if task else batch
        if on_progress:
            on_progress(read, batch[-1].id)


async def _write(chosen: AsyncIterator[list[Entry]], out: BinaryIO, path: Path) -> Exported:
    count, size, first, last = 0, 0, "", ""
    async for batch in chosen:
        if not batch:
            continue
        lines = b"".join(b'["%b",%b]\n' % (entry.id.encode(), entry.payload) for entry in batch)
        out.write(lines)
        count, size, first, last = count + len(batch), size + len(lines), first or batch[0].id, batch[-1].id
    return Exported(str(path), count, size, first, last)
