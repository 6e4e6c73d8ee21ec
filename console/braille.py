"""A curve on a canvas of braille characters: two by four dots each."""

from __future__ import annotations

import math
from collections.abc import Sequence

LARGEST = 1e300  # larger values are drawn as this one: sums and differences of them would overflow
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # row, column


def curve(values: Sequence[float], width: int, height: int) -> list[str]:
    """`height` lines of `width` characters, the largest value at the top. Values that are no number leave a gap."""
    columns, rows = width * 2, height * 4
    points = _resampled([max(-LARGEST, min(value, LARGEST)) if math.isfinite(value) else None for value in values], columns)
    known = [point for point in points if point is not None]
    if not known:
        return [" " * width for _ in range(height)]
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    cells = [[0] * width for _ in range(height)]
    before: int | None = None
    for x, point in enumerate(points):
        if point is None:
            before = None
            continue
        y = rows - 1 - round((point - low) / span * (rows - 1)) if high > low else rows // 2
        start, end = (y, y) if before is None else sorted((before, y))
        for dot in range(start if before is None or start == y else start + 1, end + 1 if before is None or end == y else end):
            cells[dot // 4][x // 2] |= _DOTS[dot % 4][x % 2]
        cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
        before = y
    return ["".join(chr(0x2800 + cell) if cell else " " for cell in line) for line in cells]


def _resampled(values: Sequence[float | None], columns: int) -> list[float | None]:
    """One value a column: the mean of those that fall on it, or, of fewer values than columns, a straight line between them."""
    count = len(values)
    if count == 1:
        return [values[0]] * columns
    sampled: list[float | None] = []
    for x in range(columns if count else 0):
        if count > columns:
            part = [value for value in values[x * count // columns : (x + 1) * count // columns] if value is not None]
            sampled.append(sum(part) / len(part) if part else None)
            continue
        at = x * (count - 1) / (columns - 1)
        left, right = values[int(at)], values[min(int(at) + 1, count - 1)]
        part_way = at - int(at)
        if left is None or (right is None and part_way):
            sampled.append(None)
        else:
            sampled.append(left if right is None else left * (1 - part_way) + right * part_way)
    return sampled
