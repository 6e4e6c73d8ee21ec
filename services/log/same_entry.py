"""Whether a log is still the one that was folded: the entry at the position is what it was, by the sha256 of its payload."""

from __future__ import annotations

import hashlib

from mloc.services.log.event_log import EventLog


def payload_sha256(payload: bytes) -> str:
    """Hex."""
    return hashlib.sha256(payload).hexdigest()


async def has_entry(log: EventLog, id: str, sha256: str) -> bool:
    """Raises what reading one entry raises."""
    entry = await log.entry(id)
    return entry is not None and payload_sha256(entry.payload) == sha256
