"""Rows of named columns that are read as they are needed: files, datasets, lists, and parts of these."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from msgspec import Struct

Columns = dict[str, Any]

SHUFFLE_BUFFER = 1000  # rows, where a stream is shuffled and nothing else is said


class Malformed(Struct, frozen=True):
    """A row that cannot be read, in its place among the others."""

    message: str


class Table(Struct, frozen=True):
    """`read(start, stop)` gives the rows of that range, `stop` None: to the end; `count()` is their number, which may take a pass over them."""

    read: Callable[[int, int | None], Iterator[Columns | Malformed]]
    count: Callable[[], int]


def list_table(rows: Sequence[Columns]) -> Table:
    return Table(lambda start, stop: iter(rows[start:stop]), lambda: len(rows))


def limited(table: Table, limit: int) -> Table:
    """The first `limit` rows."""
    return Table(lambda start, stop: table.read(start, limit if stop is None else min(stop, limit)), lambda: min(table.count(), limit))


def joined(ranges: Sequence[tuple[Table, int, int | None]]) -> Table:
    """Ranges of tables, one after the other. A range without an end must be the last, or its table is counted."""
    if len(ranges) == 1 and ranges[0][1:] == (0, None):
        return ranges[0][0]

    def sizes() -> list[int]:
        return [max(0, (table.count() if last is None else min(last, table.count())) - first) for table, first, last in ranges]

    def read(start: int, stop: int | None) -> Iterator[Columns | Malformed]:
        if len(ranges) == 1:
            table, first, last = ranges[0]
            ends = [end for end in (last, None if stop is None else first + stop) if end is not None]
            yield from table.read(first + start, min(ends) if ends else None)
            return
        before = 0
        for (table, first, _), size in zip(ranges, sizes(), strict=True):
            begin = max(start - before, 0)
            end = size if stop is None else min(size, stop - before)
            if begin < end:
                yield from table.read(first + begin, first + end)
            before += size

    return Table(read, lambda: sum(sizes()))


def shuffled(table: Table, seed: int) -> Table:
    """All rows in an order that the seed decides; they are held in memory."""
    made: list[Columns | Malformed] = []

    def rows() -> list[Columns | Malformed]:
        if not made:
            made.extend(table.read(0, None))
            random.Random(seed).shuffle(made)
        return made

    return Table(lambda start, stop: iter(rows()[start:stop]), lambda: len(rows()))


def shuffled_stream(table: Table, seed: int, buffer_size: int | None) -> Table:
    """The rows, each drawn from the next `buffer_size` ones: the same order for the same seed, without holding all."""

    def drawn() -> Iterator[Columns | Malformed]:
        chance, buffer = random.Random(seed), []
        for row in table.read(0, None):
            if len(buffer) < (buffer_size or SHUFFLE_BUFFER):
                buffer.append(row)
                continue
            at = chance.randrange(len(buffer))
            yield buffer[at]
            buffer[at] = row
        chance.shuffle(buffer)
        yield from buffer

    return Table(lambda start, stop: islice(drawn(), start, stop), table.count)
