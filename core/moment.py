"""A point of history as a person names it: an event id, an ordinal (`#1234`), a time, or so long ago (`-5m`)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from msgspec import Struct

ACCEPTED = "an event id (1700000000000-0), #1234 (the first 1,234 events), a time (2026-01-31T14:05, 14:05:30) or so long ago (-30s, -5m, -2h, -1d)"
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_AGO = re.compile(r"-\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_ID = re.compile(r"\d{10,}-\d+")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?")


class AtId(Struct, frozen=True, gc=False):
    """After the entry with this id, or where it is not in the log, after the last one before it."""

    id: str


class AtTime(Struct, frozen=True, gc=False):
    """After the last entry that is not younger than this, ms since 1970."""

    ms: int


class AtOrdinal(Struct, frozen=True, gc=False):
    """After this many entries."""

    count: int


Moment = AtId | AtTime | AtOrdinal


def parse(text: str, now_ms: int) -> Moment:
    """The moment that a person means; times without a zone are local ones, and `14:05` is of today. Raises ValueError that says what is taken."""
    found = text.strip()
    if _ID.fullmatch(found):
        return AtId(found)
    if found.startswith("#") and found[1:].replace(",", "").isdigit():
        return AtOrdinal(int(found[1:].replace(",", "")))
    if ago := _AGO.fullmatch(found):
        return AtTime(now_ms - round(float(ago[1]) * _UNIT_MS[ago[2]]))
    if found == "now":
        return AtTime(now_ms)
    return AtTime(_time_ms(found, now_ms))


def last_id(moment: AtId | AtTime) -> str:
    """The largest id that still belongs to the moment."""
    return moment.id if isinstance(moment, AtId) else f"{max(moment.ms, 0)}-{2**63 - 1}"


def iso(ms: int) -> str:
    """A time of the log, in UTC, to the millisecond."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time_ms(text: str, now_ms: int) -> int:
    if _CLOCK.fullmatch(text):
        today = datetime.fromtimestamp(now_ms / 1000).date().isoformat()
        text = f"{today}T{text.rjust(5, '0') if text.count(':') == 1 else text.rjust(8, '0')}"
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"{text!r} is no point of history; it takes {ACCEPTED}") from error
