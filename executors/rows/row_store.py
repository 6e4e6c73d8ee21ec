"""The answered rows of one task: in memory while few and young, in parts on disk after that, and never answered twice.

An attempt appends to a part of its own and reads the parts of earlier attempts; of two records of one row the first stands. A part is
made only when rows have waited for SYNC_SEC or are many, so that a task of a second touches no disk. A part is one record a line; after
each sync a line holds the digest of all before it, so that rows which a disk has spoiled are done again. Memory: 8 bytes a row.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from mloc.executors.contract import Rows
from mloc.executors.durable_files import sync_folder

SYNC_SEC = 2.0
YOUNG_BYTES = 1024 * 1024  # of rows in memory only

_PART = re.compile(r"attempt-(\d+)\.jsonl")
_OFFSET_BITS = 44  # of a place: the number of the part above, the offset in it below
_OFFSET = (1 << _OFFSET_BITS) - 1
_ABSENT, _YOUNG = -1, -2


class _Tokens(Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Line(Struct):
    """A record, or the digest of what stands before it."""

    index: int = -1
    usage: _Tokens = _Tokens()
    error: dict[str, Any] | None = None
    sha256: str = ""


_decode_line = msgspec.json.Decoder(_Line).decode


class RowStore:
    """Row index → its record, one JSON object. `first` is the lowest index that may come (a shard's first row)."""

    def __init__(self, folder: Path, attempt: int, first: int = 0) -> None:
        self._folder = folder
        self._first = first
        self._places = array("q")
        self._parts = sorted(folder.glob("attempt-*.jsonl"), key=_number_of)
        self._young: dict[int, bytes] = {}  # in no file yet
        self._young_bytes = 0
        self._unsynced = 0  # rows
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._offset = 0
        self._synced_at = time.monotonic()
        self._count = 0
        self.size_bytes = 0  # of all records
        self.prompt_tokens = self.completion_tokens = self.errors = 0  # of all records
        self.new_prompt_tokens = self.new_completion_tokens = 0  # of this attempt's
        for number in range(len(self._parts)):
            self._read(number)
        self._parts.append(folder / f"attempt-{attempt}.jsonl")

    def __contains__(self, index: int) -> bool:
        at = index - self._first
        return 0 <= at < len(self._places) and self._places[at] != _ABSENT

    def __len__(self) -> int:
        return self._count

    def add(self, index: int, record: dict[str, Any], prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        """Take the row's record; it is durable after the next `sync`."""
        self.new_prompt_tokens += prompt_tokens
        self.new_completion_tokens += completion_tokens
        line = msgspec.json.encode(record)
        self._put(index, _YOUNG, len(line), _Tokens(prompt_tokens, completion_tokens), record.get("error") is not None)
        self._young[index] = line
        self._young_bytes += len(line)
        self._unsynced += 1
        if self._young_bytes > YOUNG_BYTES:
            self._write()

    def sync_if_due(self) -> Iterator[Rows]:
        """Sync where rows have waited long enough. In between they are handed to the system, so that they outlive this process."""
        if time.monotonic() - self._synced_at >= SYNC_SEC:
            yield from self.sync()
        elif self._file is not None:
            self._write()

    def sync(self) -> Iterator[Rows]:
        """Make all rows durable, and say so."""
        self._synced_at = time.monotonic()
        if not self._unsynced:
            return
        self._write()
        assert self._file is not None
        self._append(b'{"sha256":"%s"}\n' % self._digest.hexdigest().encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        count, self._unsynced = self._unsynced, 0
        yield Rows(self._parts[-1].name, count, self._digest.hexdigest())

    def records(self) -> Iterator[bytes]:
        """Every record in the order of the input, read back one by one."""
        files: dict[int, BinaryIO] = {}
        try:
            for at, place in enumerate(self._places):
                if place == _YOUNG:
                    yield self._young[at + self._first]
                elif place != _ABSENT:
                    part = place >> _OFFSET_BITS
                    if part not in files:
                        files[part] = self._parts[part].open("rb")
                    files[part].seek(place & _OFFSET)
                    yield files[part].readline()[:-1]
        finally:
            for file in files.values():
                file.close()

    def _put(self, index: int, place: int, length: int, tokens: _Tokens, is_error: bool) -> None:
        at = index - self._first
        if at >= len(self._places):
            self._places.extend([_ABSENT] * (at + 1 - len(self._places)))
        self._places[at] = place
        self._count += 1
        self.size_bytes += length + 1
        self.prompt_tokens += tokens.prompt_tokens
        self.completion_tokens += tokens.completion_tokens
        self.errors += is_error

    def _write(self) -> None:
        """Move what is young into this attempt's part."""
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = self._parts[-1].open("wb")
            sync_folder(self._folder)
            sync_folder(self._folder.parent)
        own = (len(self._parts) - 1) << _OFFSET_BITS
        for index, line in self._young.items():
            self._places[index - self._first] = own | self._offset
            self._append(line + b"\n")
        self._file.flush()
        self._young.clear()
        self._young_bytes = 0

    def _append(self, line: bytes) -> None:
        assert self._file is not None
        self._file.write(line)
        self._digest.update(line)
        self._offset += len(line)

    def _read(self, number: int) -> None:
        """Take the rows of an earlier attempt's part, up to where it is torn or spoiled."""
        offset, digest = 0, hashlib.sha256()
        unproven: list[tuple[_Line, int, int]] = []
        with self._parts[number].open("rb") as file:
            for line in file:
                try:
                    read = _decode_line(line) if line.endswith(b"\n") else None
                except msgspec.MsgspecError:
                    read = None
                if read is None:  # torn by the end of the attempt that wrote it
                    break
                if read.sha256:
                    if read.sha256 != digest.hexdigest():
                        return
                    self._take(number, unproven)
                    unproven = []
                else:
                    unproven.append((read, offset, len(line)))
                digest.update(line)
                offset += len(line)
        self._take(number, unproven)

    def _take(self, number: int, lines: list[tuple[_Line, int, int]]) -> None:
        for line, offset, length in lines:
            if line.index >= self._first and line.index not in self:
                self._put(line.index, number << _OFFSET_BITS | offset, length - 1, line.usage, line.error is not None)


def _number_of(part: Path) -> tuple[int, str]:
    match = _PART.fullmatch(part.name)
    return (int(match[1]) if match else 0, part.name)
