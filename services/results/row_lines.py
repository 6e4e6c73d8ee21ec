"""A result that is read row by row: the form in which executors and merges write a large `responses.json`.

    {"ok":true,"model":"m","items":[
    {"index":0,…},
    {"index":1,…}
    ],"usage":{…}}

It is JSON like any other; that each row has a line of its own lets a reader hold one row at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Raw

BEGIN = b'"items":['
MAX_HEAD_BYTES = 64 * 1024  # what stands before the rows
MAX_TAIL_BYTES = 1024 * 1024  # and after them


def is_row_lines(path: Path) -> bool:
    """Whether the file has that form. Raises OSError."""
    with path.open("rb") as file:
        return file.readline(MAX_HEAD_BYTES).endswith(BEGIN + b"\n")


def rows_of(path: Path, others: dict[str, Raw]) -> Iterator[bytes]:
    """The rows' JSON, one by one; when they are through, the result's other members are in `others`.

    Raises OSError, and msgspec.DecodeError where the file is no such result or is not whole.
    """
    with path.open("rb") as file:
        head = file.readline(MAX_HEAD_BYTES)
        others.update(_members(head.rstrip() + b"]}"))
        for line in file:
            if line.startswith(b"]"):
                others.update(_members(b'{"items":[' + line + file.read()))
                del others["items"]
                return
            if row := line.rstrip(b",\n"):
                yield row
    raise msgspec.DecodeError(f"{path} ends in the middle of its items")


def without_rows(path: Path) -> dict[str, Raw]:
    """The result's members beside its items. Raises as `rows_of` does."""
    with path.open("rb") as file:
        head = file.readline(MAX_HEAD_BYTES)
        file.seek(max(len(head) - 1, path.stat().st_size - MAX_TAIL_BYTES))
        tail = file.read()
    if (at := tail.rfind(b"\n]")) < 0:
        raise msgspec.DecodeError(f"{path} ends in the middle of its items")
    members = _members(head.rstrip() + b"]}") | _members(b'{"items":[' + tail[at:])
    del members["items"]
    return members


def _members(encoded: bytes) -> dict[str, Raw]:
    return {name: value.copy() for name, value in msgspec.json.decode(encoded, type=dict[str, Raw]).items()}
