"""A result that is read row by row: the form in which executors and merges write a large `responses.json`.

    {"ok":true,"model":"m","items":[
    {"index":0,…},
    {"index":1,…}
    ],"usage":{…}}

It is JSON like any other; that each row has a line of its own lets a reader hold one row at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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


def with_members(path: Path, more: Mapping[str, Any]) -> Iterator[bytes]:
    """The content of such a file with these members in it, over those of the same name; the rows stay as they are. Raises as `rows_of` does."""
    with path.open("rb") as file:
        head = _members(file.readline(MAX_HEAD_BYTES).rstrip() + b"]}")
        del head["items"]
        yield b"{" + b"".join(_member(name, value) + b"," for name, value in head.items() if name not in more) + BEGIN + b"\n"
        for line in file:
            if line.startswith(b"]"):
                tail = _members(b'{"items":[' + line + file.read()) | {name: Raw(msgspec.json.encode(value)) for name, value in more.items()}
                del tail["items"]
                yield b"]" + b"".join(b"," + _member(name, value) for name, value in tail.items()) + b"}"
                return
            yield line
    raise msgspec.DecodeError(f"{path} ends in the middle of its items")


def _member(name: str, value: Raw) -> bytes:
    return msgspec.json.encode(name) + b":" + bytes(value)


def _members(encoded: bytes) -> dict[str, Raw]:
    return {name: value.copy() for name, value in msgspec.json.decode(encoded, type=dict[str, Raw]).items()}
