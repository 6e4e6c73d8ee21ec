"""A metric that was measured on rows: its mean, the standard error of that, and on how many; and parts of the rows put together.

The parts' means and standard errors hold all that is needed: rows are not looked at again (Chan, Golub and LeVeque 1983, "Algorithms for
Computing the Sample Variance"; their formula for combining, for any number of parts).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

DIGITS = 6


class Measured(Struct, frozen=True):
    """`stderr` None: of one row nothing can be said."""

    value: float
    stderr: float | None
    n: int

    @property
    def squares(self) -> float:
        """Of the rows' distances from their mean, summed."""
        return (self.stderr or 0.0) ** 2 * self.n * (self.n - 1)

    def rounded(self) -> Measured:
        return Measured(round(self.value, DIGITS), None if self.stderr is None else round(self.stderr, DIGITS), self.n)


def measured(values: Sequence[float], rows: int) -> Measured:
    """The mean over all rows (one at least); those without a value count as 0."""
    mean = sum(values) / rows
    return _of_squares(mean, sum((value - mean) ** 2 for value in values) + (rows - len(values)) * mean**2, rows)


def together(parts: Iterable[Measured]) -> Measured:
    """What measuring the rows of all parts at once would have given. Raises ValueError where there are no rows."""
    found = [part for part in parts if part.n]
    if not found:
        raise ValueError("nothing was measured")
    rows = sum(part.n for part in found)
    mean = math.fsum(part.value * part.n for part in found) / rows
    return _of_squares(mean, math.fsum(part.squares + part.n * (part.value - mean) ** 2 for part in found), rows)


def all_together(parts: Sequence[tuple[Mapping[str, Any], int]]) -> dict[str, Measured]:
    """Metrics by name of parts, each with its number of rows: in a part that lacks a metric no row has it. Raises msgspec.ValidationError."""
    read = [({name: msgspec.convert(one, Measured) for name, one in metrics.items()}, rows) for metrics, rows in parts]
    names = dict.fromkeys(name for metrics, _ in read for name in metrics)
    return {name: together(metrics.get(name, Measured(0.0, 0.0, rows)) for metrics, rows in read).rounded() for name in names}


def _of_squares(mean: float, squares: float, rows: int) -> Measured:
    return Measured(mean, math.sqrt(squares / (rows - 1) / rows) if rows > 1 else None, rows)
