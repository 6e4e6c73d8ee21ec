"""Reads the tables: lists, single tasks, statistics. Each call sees one moment of them."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from mloc.core.task import Task
from mloc.services.intake.task_query import TaskPage, TaskQuery, matches
from mloc.services.read_model import schema
from mloc.services.read_model.outcomes import Summed, decode_sums
from mloc.services.read_model.paging import SortKey, decode_cursor, encode_cursor, key_of_row, sort_key
from mloc.services.read_model.plan import (
    SCANNED_AT_ONCE,
    Driver,
    Filters,
    driver_of,
    filters_of,
    fitting_sql,
    is_scanned,
    page_sql,
    scan_sql,
    total_of,
)
from mloc.services.read_model.rows import decode_task
from mloc.services.read_model.schema import Cursor

Overlay = Mapping[int, Task]  # by rank: tasks that memory knows better than the tables


class Unreadable(Exception):
    """There is no read model, or none that can be used; the message says why."""


class Stored(NamedTuple):
    """A task as the tables have it, and the entry of its submission ("" for a shard)."""

    task: Task
    entry_id: str


class Reader:
    """One connection; calls may come from any thread, one waits for the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def cursor(self) -> Cursor:
        """Raises Unreadable."""
        with self._moment() as (_, cursor):
            return cursor

    def find(self, query: TaskQuery, overlay: Overlay) -> tuple[Cursor, TaskPage]:
        """A page of the tables' tasks with those of `overlay` in their place. Raises Unreadable, QueryError."""
        after = decode_cursor(query)
        fresh = sorted((sort_key(task, query.sort), number) for number, task in overlay.items() if matches(task, query))
        total = len(fresh)
        if after is not None:
            fresh = [one for one in fresh if one[0] > after]
        start = 0 if after is not None else (query.page - 1) * query.page_size
        with self._moment() as (db, cursor):
            filters = filters_of(db, query, cursor.newest_rank)
            rows: Iterable[tuple[SortKey, int]] = ()
            skipped, at_least = 0, False
            if filters is not None:
                _put_aside(db, (number for number in overlay if number <= cursor.newest_rank))
                skipped = max(0, start - len(fresh))
                driver = driver_of(db, filters)
                rows = _rows(db, driver, filters, query.sort, after, start - skipped + query.page_size + 1, skipped)
                stored, at_least = total_of(db, driver, filters)
                total += max(0, stored - _fitting(db, filters)) if overlay else stored
            merged = list(islice(merge(rows, fresh), start - skipped, start - skipped + query.page_size + 1))
            shown = merged[: query.page_size]
            bodies = _bodies(db, [number for _, number in shown if number not in overlay])
        tasks = [overlay.get(number) or bodies[number] for _, number in shown]
        next_cursor = encode_cursor(query, shown[-1][0]) if len(merged) > len(shown) else ""
        return cursor, TaskPage(tasks, total, at_least, next_cursor)

    def get(self, id: str) -> Stored | None:
        """Raises Unreadable."""
        return self._one("SELECT body, entry_id FROM bodies INDEXED BY bodies_id WHERE id = ? ORDER BY rank DESC LIMIT 1", id)

    def newest_named(self, name: str) -> Stored | None:
        """The newest task of this name that is part of nothing. Raises Unreadable."""
        return self._one(
            "SELECT body, entry_id FROM tasks INDEXED BY tasks_name JOIN bodies USING (rank) "
            "WHERE name = ? AND place % 2 = 0 ORDER BY rank DESC LIMIT 1", name
        )  # fmt: skip

    def begun(self, start: str, most: int) -> list[Task]:
        """Tasks that are part of nothing and whose id starts so, at most so many. Raises Unreadable."""
        with self._moment() as (db, _):
            found = db.execute(
                "SELECT body FROM bodies INDEXED BY bodies_id JOIN tasks USING (rank) WHERE id >= ? AND id < ? AND place % 2 = 0 LIMIT ?",
                (start, start + "\U0010ffff", most),
            )
            return [decode_task(body) for (body,) in found]

    def sums(self, spans: Iterable[tuple[int, int, int]], owner: str, *, by_owner: bool = False) -> tuple[Cursor, list[Summed]]:
        """The sums of the spans (grain, first start, end), of one owner or of everyone (""), then also each owner's own. Raises Unreadable."""
        found: list[Summed] = []
        with self._moment() as (db, cursor):
            word = schema.NO_WORD
            if owner:
                row = db.execute("SELECT id FROM words WHERE word = ?", (owner,)).fetchone()
                if row is None:
                    return cursor, []
                word = row[0]
            names = {word: ""}
            of = "INDEXED BY stats_start WHERE owner >= ?" if by_owner and not owner else "WHERE owner = ?"
            for grain, start, end in spans:
                sql = f"SELECT owner, task_type, model, sums FROM stats {of} AND grain = ? AND start_ms >= ? AND start_ms < ?"
                for whose, task_type, model, sums in db.execute(sql, (word, grain, start, end)):
                    if whose not in names:
                        (names[whose],) = db.execute("SELECT word FROM words WHERE id = ?", (whose,)).fetchone()
                    found.append(Summed(names[whose], task_type, model, decode_sums(sums)))
        return cursor, found

    def _one(self, sql: str, value: str) -> Stored | None:
        with self._moment() as (db, _):
            row = db.execute(sql, (value,)).fetchone()
        return Stored(decode_task(row[0]), row[1]) if row else None

    @contextmanager
    def _moment(self) -> Iterator[tuple[sqlite3.Connection, Cursor]]:
        """A read transaction. Raises Unreadable."""
        with self._lock:
            try:
                if self._db is None:
                    self._db = schema.open_to_read(self._path)
                self._db.execute("BEGIN")
                try:
                    cursor = schema.read_cursor(self._db)
                    if cursor is None:
                        raise Unreadable("the read model is another version's; `mloc metrics` builds it anew")
                    yield self._db, cursor
                finally:
                    if self._db.in_transaction:
                        self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db is not None:
                    self._db.close()
                    self._db = None
                raise Unreadable(f"the read model {self._path} cannot be read ({error})") from error


def _put_aside(db: sqlite3.Connection, ranks: Iterator[int]) -> None:
    """The rows that the overlay replaces."""
    db.execute("CREATE TEMP TABLE IF NOT EXISTS overlay (rank INTEGER PRIMARY KEY)")
    db.execute("DELETE FROM overlay")
    db.executemany("INSERT INTO overlay VALUES (?)", ((number,) for number in ranks))


def _rows(
    db: sqlite3.Connection, driver: Driver, filters: Filters, sort: str, after: SortKey | None, count: int, skipped: int
) -> list[tuple[SortKey, int]]:
    """The next `count` after `skipped` of them."""
    if is_scanned(driver, sort) and not skipped:
        sql, parameters = scan_sql(filters, sort, after)
        found, seen = [], 0
        for number, value, fits in db.execute(sql, (*parameters, SCANNED_AT_ONCE)):
            seen += 1
            if fits:
                found.append((key_of_row(number, value, sort), number))
                if len(found) == count:
                    return found
        if seen < SCANNED_AT_ONCE:  # that was the end of the list
            return found
    sql, parameters = page_sql(driver, filters, sort, after)
    return [(key_of_row(number, value, sort), number) for number, value in db.execute(sql, (*parameters, count, skipped))]


def _fitting(db: sqlite3.Connection, filters: Filters) -> int:
    count: int = db.execute(fitting_sql(filters)).fetchone()[0]
    return count


def _bodies(db: sqlite3.Connection, ranks: list[int]) -> dict[int, Task]:
    found = db.execute(f"SELECT rank, body FROM bodies WHERE rank IN ({', '.join(map(str, ranks))})")
    return {number: decode_task(body) for number, body in found}
