"""Log ids `<milliseconds>-<sequence>`: their order and their time."""

from __future__ import annotations

from functools import lru_cache

START = "0-0"


def key(id: str) -> tuple[int, int]:
    """Sortable form of an id. Raises ValueError for what is no id."""
    milliseconds, _, sequence = id.partition("-")
    return int(milliseconds), int(sequence or 0)


def before(a: str, b: str) -> bool:
    """Whether id `a` comes before id `b`."""
    return a != b and key(a) < key(b)


def time_ms(id: str) -> int:
    """When the entry was appended, by the server's clock, in ms since 1970."""
    return _milliseconds(id[: id.index("-")])


@lru_cache(maxsize=64)
def _milliseconds(text: str) -> int:
    """Entries come in bursts within a millisecond."""
    return int(text)
