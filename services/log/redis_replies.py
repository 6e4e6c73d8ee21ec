"""The server's replies (RESP2, as hiredis gives them) as rows, and its errors as the log's."""

from __future__ import annotations

from typing import Any

import redis.exceptions as redis_errors

from mloc.core.codec import EVENT_TYPES
from mloc.services.log.event_log import Entry, InboxEntry, LogError, LogUnavailable

_BUSY = ("BUSY ", "LOADING", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN")  # states that pass
_TYPES = {tag.encode(): tag for tag in EVENT_TYPES}  # one string for each type, not one for each entry


def entries(rows: list[Any] | None) -> list[Entry]:
    """[[id, [b"type", type, b"data", payload]], …]"""
    return [Entry(id.decode(), _TYPES.get(fields[1]) or fields[1].decode(), fields[3]) for id, fields in rows or ()]


def inbox_entries(rows: list[Any] | None) -> list[InboxEntry]:
    """As entries, and `extra`; what was deleted while it was pending comes without fields and is left out."""
    return [
        InboxEntry(id.decode(), _TYPES.get(fields[1]) or fields[1].decode(), fields[3], fields[5]) for id, fields in rows or () if fields
    ]


def side_rows(rows: list[Any] | None) -> list[tuple[str, bytes]]:
    """[[id, [b"data", payload]], …]"""
    return [(id.decode(), fields[1]) for id, fields in rows or ()]


def of_stream(reply: list[Any] | None) -> list[Any] | None:
    """The rows of the one stream that was read; None where nothing came in time."""
    return reply[0][1] if reply else None


def explained(error: Exception) -> LogError:
    """What an error that the server answered means for the caller."""
    text = str(error)
    if isinstance(error, redis_errors.OutOfMemoryError) or "OOM command not allowed" in text:
        return LogUnavailable(
            "the server of the event log is out of memory (its maxmemory) and takes no writes: give it more, or let the archiver trim the log"
        )
    if "MISCONF" in text or "No space left" in text:
        return LogUnavailable(f"the server of the event log cannot write to its disk: make room there, then it goes on ({text})")
    if isinstance(error, redis_errors.ReadOnlyError) or "READONLY" in text:
        return LogUnavailable("the server of the event log is a replica now and takes no writes; looking for the primary")
    if isinstance(error, redis_errors.BusyLoadingError) or text.startswith(_BUSY):
        return LogUnavailable(f"the server of the event log cannot answer now: {text}")
    if isinstance(error, redis_errors.NoPermissionError):
        return LogUnavailable(f"the server of the event log forbids what MLOC needs: {text}; give its user these commands")
    return LogError(f"the server of the event log refused a call: {text}")
