"""The answered rows of one task: kept in memory while few and young, in parts on disk after that, and never answered twice.

An attempt appends to a part of its own and reads the parts of earlier attempts; of two records of one row the first stands. A part is
made only when rows have waited for SYNC_SEC, so that a task of a second touches no disk.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
from msgspec import Struct

from mloc.executors.contract import Rows
from mloc.executors.durable_files import sync_folder

SYNC_SEC = 2.0

_PART = re.compile(r"attempt-(\d+)\.jsonl")


class Span(NamedTuple):
    """Where a record lies in a part."""

    part: Path
    offset: int
    length: int


class _Tokens(Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Recorded(Struct):
    index: int
    usage: _Tokens = _Tokens()
    error: dict[str, Any] | None = None


_decode_recorded = msgspec.json.Decoder(_Recorded).decode


class RowStore:
    """Row index → its record, one JSON object."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._folder = folder
        self._part = folder / f"attempt-{attempt}.jsonl"
        self._records: dict[int, bytes | Span] = {}
        self._waiting: list[int] = []  # rows in memory only
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._offset = 0
        self._synced_at = time.monotonic()
        self.size_bytes = 0  # of all records
        self.prompt_tokens = self.completion_tokens = self.errors = 0  # of all records
        self.new_completion_tokens = 0  # of this attempt's
        for part in sorted(folder.glob("attempt-*.jsonl"), key=_number_of):
            self._read(part)

    def __contains__(self, index: int) -> bool:
        return index in self._records

    def __len__(self) -> int:
        return len(self._records)

    def add(self, index: int, record: dict[str, Any], prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        """Take the row's record; it is durable after the next `sync`."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.new_completion_tokens += completion_tokens
        line = msgspec.json.encode(record)
        self._records[index] = line
        self._waiting.append(index)
        self.size_bytes += len(line) + 1

    def sync_if_due(self) -> Iterator[Rows]:
        """Sync where rows have waited long enough."""
        if time.monotonic() - self._synced_at >= SYNC_SEC:
            yield from self.sync()

    def sync(self) -> Iterator[Rows]:
        """Make all rows durable, and say so."""
        self._synced_at = time.monotonic()
        if not self._waiting:
            return
        file = self._opened()
        for index in self._waiting:
            line = self._records[index]
            assert isinstance(line, bytes)
            file.write(line + b"\n")
            self._digest.update(line + b"\n")
            self._records[index] = Span(self._part, self._offset, len(line))
            self._offset += len(line) + 1
        file.flush()
        os.fsync(file.fileno())
        count = len(self._waiting)
        self._waiting.clear()
        yield Rows(self._part.name, count, self._digest.hexdigest())

    def records(self) -> Iterator[bytes]:
        """Every record in the order of the input, read back one by one."""
        files: dict[Path, BinaryIO] = {}
        try:
            for index in sorted(self._records):
                record = self._records[index]
                if isinstance(record, bytes):
                    yield record
                    continue
                if record.part not in files:
                    files[record.part] = record.part.open("rb")
                files[record.part].seek(record.offset)
                yield files[record.part].read(record.length)
        finally:
            for file in files.values():
                file.close()

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("wb")
            sync_folder(self._folder)
            sync_folder(self._folder.parent)
        return self._file

    def _read(self, part: Path) -> None:
        offset = 0
        with part.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return  # torn by the end of the attempt that wrote it
                try:
                    recorded = _decode_recorded(line)
                except msgspec.MsgspecError:
                    return
                if recorded.index not in self._records:
                    self._records[recorded.index] = Span(part, offset, len(line) - 1)
                    self.size_bytes += len(line)
                    self.prompt_tokens += recorded.usage.prompt_tokens
                    self.completion_tokens += recorded.usage.completion_tokens
                    self.errors += recorded.error is not None
                offset += len(line)


def _number_of(part: Path) -> tuple[int, str]:
    match = _PART.fullmatch(part.name)
    return (int(match[1]) if match else 0, part.name)
