"""The orders of a list, and the cursors that go on in one. Every order is total, so that no page shows a task twice or leaves one out."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any

import msgspec
from msgspec.structs import replace

from mloc.core.task import Task
from mloc.services.intake.task_query import QueryError, TaskQuery
from mloc.services.read_model.rows import rank

SortKey = tuple[Any, ...]  # ascending in the order of its list

# sort → what SQL selects beside the rank, orders by, and continues after
COLUMN = {"newest": "0", "oldest": "0", "priority": "rush", "ended": "ended_ms", "name": "name"}
ORDER = {"newest": "1 DESC", "oldest": "1", "priority": "2, 1", "ended": "2 DESC, 1 DESC", "name": "2, 1"}
INDEX = {"priority": "tasks_rush", "ended": "tasks_ended", "name": "tasks_name"}


def sort_key(task: Task, sort: str) -> SortKey:
    match sort:
        case "priority":
            return key_of_row(rank(task), -task.priority, sort)
        case "ended":
            return key_of_row(rank(task), task.ended_ms, sort)
        case "name":
            return key_of_row(rank(task), task.name, sort)
        case _:
            return key_of_row(rank(task), 0, sort)


def key_of_row(number: int, value: Any, sort: str) -> SortKey:
    match sort:
        case "newest":
            return (-number,)
        case "oldest":
            return (number,)
        case "ended":
            return (-value, -number)
        case _:
            return (value, number)


def row_of_key(key: SortKey, sort: str) -> tuple[int, Any]:
    """(rank, value)"""
    match sort:
        case "newest":
            return -key[0], 0
        case "oldest":
            return key[0], 0
        case "ended":
            return -key[1], -key[0]
        case _:
            return key[1], key[0]


def encode_cursor(query: TaskQuery, key: SortKey) -> str:
    """A cursor that goes on after `key`, in the same list."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode([query.sort, _fingerprint(query), *key])).decode().rstrip("=")


def decode_cursor(query: TaskQuery) -> SortKey | None:
    """Where the query's cursor goes on; None without one. Raises QueryError for one that is broken or another list's."""
    if not query.cursor:
        return None
    try:
        packed = base64.urlsafe_b64decode(query.cursor + "=" * (-len(query.cursor) % 4))
        sort, fingerprint, *key = msgspec.msgpack.decode(packed, type=list[Any])
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        raise QueryError("this cursor is damaged; take next_cursor as it came, or leave it out to begin anew") from None
    if sort != query.sort or fingerprint != _fingerprint(query) or len(key) != len(sort_key(Task(""), query.sort)):
        raise QueryError("this cursor belongs to a list with other filters or another order; leave it out to begin anew")
    if not isinstance(key[-1], int) or not isinstance(key[0], str if sort == "name" else int):
        raise QueryError("this cursor is damaged; take next_cursor as it came, or leave it out to begin anew")
    return tuple(key)


def _fingerprint(query: TaskQuery) -> int:
    """Of what must stay the same; an age in `since` moves on by itself."""
    phases = sorted(query.phases) if query.phases is not None else None
    same = replace(query, phases=None, cursor="", page=1, page_size=1, since_ms=0)
    return zlib.crc32(msgspec.msgpack.encode([phases, same]))
