"""`split` of a dataset that is a local file: `train`, `train[:10]`, `train[10:20]`, `train[:1%]`, as for a dataset of a hub."""

from __future__ import annotations

import re
from typing import TypeVar

from mloc.executors.contract import ExecutorError

Item = TypeVar("Item")

_SPLIT = re.compile(r"\w+(\[(?P<first>-?\d+%?)?:(?P<last>-?\d+%?)?\])?")


def select_split(rows: list[Item], split: str) -> list[Item]:
    """The rows that the split names; a percentage is of all rows, rounded. Raises ExecutorError for what is no split."""
    match = _SPLIT.fullmatch(split.strip())
    if match is None:
        raise ExecutorError("BadSplit", f"data.split {split!r} is not understood; write train, train[:100], train[100:200] or train[:1%]")
    return rows[_edge(match["first"], len(rows)) : _edge(match["last"], len(rows))]


def _edge(text: str | None, count: int) -> int | None:
    if text is None:
        return None
    return round(count * int(text[:-1]) / 100) if text.endswith("%") else int(text)
