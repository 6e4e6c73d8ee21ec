"""From a query to SQL that looks at few rows.

Every filter has an index in the order of submission, so a page by age is read off the index of the filter with the fewest tasks. For another
order these tasks are sorted where they are few; else the index of that order is read until the page is full, and should it not be full soon
(what is wanted may all lie at the far end), they are sorted after all.
"""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from msgspec import Struct

from mloc.services.intake.task_query import TaskQuery
from mloc.services.read_model import schema
from mloc.services.read_model.paging import COLUMN, INDEX, ORDER, SortKey, row_of_key
from mloc.services.read_model.rows import label_word, places

SORTED_AT_ONCE = 8_000  # tasks, some 10 ms
SCANNED_AT_ONCE = 20_000  # entries of an order's index
COUNTED_AT_ONCE = 10_000
MOST_ARMS = 100  # of one SELECT; SQLite takes 500
_FACETS = {"owner": schema.OWNER, "project": schema.PROJECT, "worker": schema.WORKER}


class Filters(Struct, frozen=True):
    """A query in the numbers of the tables. None and 0 filter nothing."""

    places: tuple[int, ...] | None = None
    words: dict[str, int] = {}  # column → word
    kinds: tuple[int, ...] | None = None
    labels: tuple[int, ...] = ()
    lowest_rank: int = 0

    def conditions(self, *done: str) -> list[str]:
        """All filters but those that are done otherwise."""
        found = [f"tasks.{column} = {word}" for column, word in self.words.items() if column not in done]
        if self.places is not None and "places" not in done:
            found.append(f"tasks.place IN ({', '.join(map(str, self.places))})")
        if self.kinds is not None and "kinds" not in done:
            found.append(f"tasks.kind IN ({', '.join(map(str, self.kinds))})")
        labels = (f"label {label}" for label in self.labels)
        found += [
            f"EXISTS (SELECT 1 FROM labels AS other WHERE other.word = {label} AND other.rank = tasks.rank)"
            for name, label in zip(labels, self.labels, strict=True)
            if name not in done
        ]
        return found


class Arm(NamedTuple):
    """Candidates in the order of submission: those of an index that are `among`, of which `fits` is yet to be asked."""

    source: str
    among: str
    fits: str

    @property
    def rank(self) -> str:
        return "labels.rank" if self.source.startswith("labels") else "tasks.rank"


class Driver(Struct, frozen=True):
    """Where to begin: `arms` have `tasks` candidates, no two of them the same."""

    tasks: int
    arms: tuple[Arm, ...]
    is_exact: bool  # every candidate matches


def filters_of(db: sqlite3.Connection, query: TaskQuery, newest_rank: int) -> Filters | None:
    """None where no task in the tables can match."""
    words = {column: _word(db, text) for column, text in (("owner", query.owner), ("project", query.project), ("worker", query.worker)) if text}
    if query.parent not in ("", "none"):
        words["parent"] = _word(db, query.parent)
    labels = tuple(_word(db, label_word(*label)) for label in query.labels)
    kinds = None
    if query.kind:
        found = db.execute("SELECT id FROM kinds WHERE ? IN (kind, task_type)", (query.kind.lower(),))
        kinds = tuple(id for (id,) in found)
    if not all(words.values()) or not all(labels) or kinds == ():
        return None
    lowest = _lowest_rank(db, query.since_ms, newest_rank) if query.since_ms else 0
    return Filters(places(query.phases, roots_only=query.parent == "none"), words, kinds, labels, lowest)


def driver_of(db: sqlite3.Connection, filters: Filters) -> Driver:
    """What leaves the fewest candidates."""
    found = [_everything(db, filters)]
    for column, facet in _FACETS.items():
        if word := filters.words.get(column):
            found.append(_by_facet(db, filters, column, facet, (word,)))
    if filters.kinds is not None:
        found.append(_by_facet(db, filters, "kind", schema.KIND, filters.kinds))
    if parent := filters.words.get("parent"):
        (count,) = db.execute("SELECT count(*) FROM tasks INDEXED BY tasks_parent WHERE parent = ? AND parent != 0", (parent,)).fetchone()
        found.append(_driver(filters, count, [("tasks INDEXED BY tasks_parent", f"parent = {parent} AND parent != 0")], "parent"))
    for label in filters.labels:
        (count,) = db.execute("SELECT labelled FROM words WHERE id = ?", (label,)).fetchone()
        source = "labels CROSS JOIN tasks ON tasks.rank = labels.rank"
        found.append(_driver(filters, count, [(source, f"labels.word = {label}")], f"label {label}"))
    if filters.lowest_rank:
        bounded = "SELECT count(*) FROM (SELECT 1 FROM tasks NOT INDEXED WHERE rank >= ? LIMIT ?)"
        (count,) = db.execute(bounded, (filters.lowest_rank, COUNTED_AT_ONCE + 1)).fetchone()
        if count <= COUNTED_AT_ONCE:
            found.append(_driver(filters, count, [("tasks NOT INDEXED", "1")]))
    return min(found, key=lambda driver: driver.tasks)


def is_scanned(driver: Driver, sort: str) -> bool:
    """Whether `scan_sql` is worth a try before `page_sql`: what several filters leave may be too little to be met soon."""
    return sort in INDEX and driver.tasks > (SORTED_AT_ONCE if driver.is_exact else 5 * SORTED_AT_ONCE)


def scan_sql(filters: Filters, sort: str, after: SortKey | None) -> tuple[str, list[Any]]:
    """Selects (rank, value, fits) of the next entries of the order's own index; one parameter, how many, is to be added.

    Names often begin with what their tasks do: those of one kind lie together, maybe far from the start, so kinds have an index of their names.
    """
    where, value = "1", None
    if after is not None:
        key, value = row_of_key(after, sort)
        where = f"({COLUMN[sort]}, tasks.rank) {'<' if sort == 'ended' else '>'} (?, {key:d})"
    low = [f"tasks.rank >= {filters.lowest_rank}"] if filters.lowest_rank else []
    arms = [f"tasks INDEXED BY {INDEX[sort]} WHERE {where}"]
    done = ""
    if sort == "name" and filters.kinds is not None and len(filters.kinds) <= MOST_ARMS:
        arms, done = [f"tasks INDEXED BY tasks_kind_name WHERE kind = {kind} AND {where}" for kind in filters.kinds], "kinds"
    fits = _all([*filters.conditions(done), *low, "tasks.rank NOT IN overlay"])
    selects = (f"SELECT tasks.rank, {COLUMN[sort]}, {fits} FROM {arm}" for arm in arms)
    return f"{' UNION ALL '.join(selects)} ORDER BY {ORDER[sort]} LIMIT ?", [] if after is None else [value] * len(arms)


def page_sql(driver: Driver, filters: Filters, sort: str, after: SortKey | None) -> tuple[str, list[Any]]:
    """Selects (rank, value) in the order of `sort`; LIMIT and OFFSET are its last two parameters, to be added."""
    selects, parameters = [], []
    for arm in driver.arms:
        number, where = arm.rank, f"{arm.among} AND {arm.fits}"
        where += f" AND {number} >= {filters.lowest_rank}" if filters.lowest_rank else ""
        if after is not None:
            key, value = row_of_key(after, sort)
            match sort:
                case "newest":
                    where += f" AND {number} < {key:d}"
                case "oldest":
                    where += f" AND {number} > {key:d}"
                case _:
                    where += f" AND ({COLUMN[sort]}, tasks.rank) {'<' if sort == 'ended' else '>'} (?, {key:d})"
                    parameters.append(value)
        selects.append(f"SELECT {number}, {COLUMN[sort]} FROM {arm.source} WHERE {where} AND {number} NOT IN overlay")
    return f"{' UNION ALL '.join(selects)} ORDER BY {ORDER[sort]} LIMIT ? OFFSET ?", parameters


def total_of(db: sqlite3.Connection, driver: Driver, filters: Filters) -> tuple[int, bool]:
    """How many tasks match, and whether there may be more than that: no more than 10,000 candidates are looked at."""
    if driver.is_exact and not filters.lowest_rank:
        return driver.tasks, False
    total, looked_at = 0, 0
    for arm in driver.arms:
        low = f" AND {arm.rank} >= {filters.lowest_rank}" if filters.lowest_rank else ""
        room = COUNTED_AT_ONCE - looked_at + 1
        rows = f"SELECT ({arm.fits}) AS fits FROM {arm.source} WHERE {arm.among}{low} ORDER BY {arm.rank} DESC LIMIT {room}"
        seen, fitting = db.execute(f"SELECT count(*), coalesce(sum(fits), 0) FROM ({rows})").fetchone()
        total, looked_at = total + fitting, looked_at + seen
        if looked_at > COUNTED_AT_ONCE:
            return total, True
    return total, False


def fitting_sql(filters: Filters) -> str:
    """Counts the tasks of `overlay` that match as the tables have them."""
    low = [f"tasks.rank >= {filters.lowest_rank}"] if filters.lowest_rank else []
    return f"SELECT count(*) FROM overlay CROSS JOIN tasks ON tasks.rank = overlay.rank WHERE {_all([*filters.conditions(), *low])}"


# --- candidates ---


def _everything(db: sqlite3.Connection, filters: Filters) -> Driver:
    by_place = _counts(db, schema.EVERYTHING, schema.NO_WORD)
    if filters.places is None:
        return _driver(filters, sum(by_place.values()), [("tasks NOT INDEXED", "1")])
    there = [place for place in filters.places if by_place.get(place)]
    arms = [("tasks INDEXED BY tasks_place", f"place = {place}") for place in there]
    return _driver(filters, sum(by_place[place] for place in there), arms, "places")


def _by_facet(db: sqlite3.Connection, filters: Filters, column: str, facet: int, words: tuple[int, ...]) -> Driver:
    tasks, arms = 0, []
    for word in words:
        for place, count in _counts(db, facet, word).items():
            if count and (filters.places is None or place in filters.places):
                tasks += count
                present = "" if column == "kind" else f" AND {column} != 0"
                arms.append((f"tasks INDEXED BY tasks_{column}", f"{column} = {word}{present} AND place = {place}"))
    return _driver(filters, tasks, arms, "places", "kinds" if column == "kind" else column)


def _driver(filters: Filters, tasks: int, sources: list[tuple[str, str]], *done: str) -> Driver:
    rest = filters.conditions(*done)
    arms = tuple(Arm(source, among, _all(rest)) for source, among in sources or [("tasks", "0")])
    return Driver(tasks, arms, not rest)


def _all(conditions: list[str]) -> str:
    return " AND ".join(conditions) or "1"


def _counts(db: sqlite3.Connection, facet: int, word: int) -> dict[int, int]:
    return dict(db.execute("SELECT place, n FROM counts WHERE facet = ? AND word = ?", (facet, word)))


def _word(db: sqlite3.Connection, text: str) -> int:
    row = db.execute("SELECT id FROM words WHERE word = ?", (text,)).fetchone()
    return row[0] if row else schema.NO_WORD


def _lowest_rank(db: sqlite3.Connection, since_ms: int, newest_rank: int) -> int:
    """The first task submitted since then: ranks and times of submission rise together."""
    low, high = 0, newest_rank + 1
    while low < high:
        middle = (low + high) // 2
        row = db.execute("SELECT rank, submitted_ms FROM tasks WHERE rank >= ? ORDER BY rank LIMIT 1", (middle,)).fetchone()
        if row is None or row[1] >= since_ms:
            high = middle
        else:
            low = row[0] + 1
    return low
