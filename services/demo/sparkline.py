"""A curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """At most `width` bars, the lowest value the lowest bar; more values than that are averaged. What is no number is left out."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    largest = max(map(abs, known)) or 1.0
    known = [value / largest for value in known]  # neither their sum nor their span is too large for a float then
    count = min(width, len(known))
    means = []
    for at in range(count):
        part = known[at * len(known) // count : (at + 1) * len(known) // count]
        means.append(sum(part) / len(part))
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in means)
