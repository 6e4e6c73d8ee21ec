"""Ids of tasks: `<slug of the name>-<time and chance>`, speaking, sortable by time within a name, and never given twice."""

from __future__ import annotations

import re
from collections.abc import Callable

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to mistake
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_EPOCH_SEC = 1_704_067_200  # 2024-01-01; six letters of seconds last until 2058
_TIME_LETTERS, _CHANCE_LETTERS = 6, 8
_CHANCES = 1 << (5 * _CHANCE_LETTERS)
_NO_SLUG = re.compile(r"[^a-z0-9]+")
LONGEST_SLUG = 24


class TaskIds:
    """Makes ids. Within a second they count up from a number drawn by chance (40 bits), so that one process never repeats an id and two
    processes meet only if they draw numbers that are closer than what they submit in that second."""

    def __init__(self, now_sec: Callable[[], float], chance: Callable[[int], int]) -> None:
        """`chance(n)` draws a number below n."""
        self._now_sec = now_sec
        self._chance = chance
        self._second = ""
        self._at_sec = -1
        self._next = 0

    def new(self, name: str) -> str:
        """An id for a task of this name."""
        second = int(self._now_sec())
        if second > self._at_sec:  # a clock that goes back must not draw anew for a second that was used
            self._at_sec, self._second = second, _letters(second - _EPOCH_SEC, _TIME_LETTERS)
            self._next = self._chance(_CHANCES)
        self._next = (self._next + 1) % _CHANCES
        return f"{slug(name)}-{self._second}{_letters(self._next, _CHANCE_LETTERS)}"


def slug(name: str) -> str:
    """The name in small letters, digits and dashes, cut at 24; `task` where nothing is left."""
    return _NO_SLUG.sub("-", name.lower())[:LONGEST_SLUG].strip("-") or "task"


def _letters(number: int, count: int) -> str:
    """An even number of letters, the last of `number`."""
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(5 * (count - 2), -1, -10)])
