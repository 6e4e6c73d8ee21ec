"""`split` of a dataset, as the library `datasets` writes it: `train`, `train[:10]`, `train[10:20]`, `train[:1%]`, `train+test[-5:]`."""

from __future__ import annotations

import re
from collections.abc import Callable

from msgspec import Struct

from mloc.executors.contract import ExecutorError
from mloc.executors.rows.tables import Table, joined

_PART = re.compile(r"(?P<name>[\w.-]+)(\[(?P<first>-?\d+%?)?:(?P<last>-?\d+%?)?\])?")


class SplitPart(Struct, frozen=True):
    """One term of a split: edges are counts, or percentages of all rows where they end in `%`."""

    name: str
    first: str | None
    last: str | None


def parts_of(split: str) -> list[SplitPart]:
    """The terms that `+` joins. Raises ExecutorError for what is no split."""
    found = [_PART.fullmatch(part.strip()) for part in split.split("+")]
    if not all(found):
        said = f"data.split {split!r} is not understood; write train, train[:100], train[100:200], train[:1%] or train+test"
        raise ExecutorError("BadSplit", said)
    return [SplitPart(match["name"], match["first"], match["last"]) for match in found if match is not None]


def select_split(table_of: Callable[[str], Table], split: str) -> Table:
    """The rows that the split names, of the table that each name has; a percentage is of all rows, rounded."""
    ranges = []
    for part in parts_of(split):
        table = table_of(part.name)
        ranges.append((table, _edge(part.first, table) or 0, _edge(part.last, table)))
    return joined(ranges)


def _edge(text: str | None, table: Table) -> int | None:
    if text is None:
        return None
    if text.endswith("%"):
        count = table.count()
        at = round(count * int(text[:-1]) / 100)
        return max(0, at if at >= 0 else count + at)
    return max(0, table.count() + int(text)) if text.startswith("-") else int(text)
