"""Puts changed tasks into the tables, with the sums that follow and the cursor, in one transaction: after a crash all of it is there or nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from mloc.core.task import FINAL, Task
from mloc.services.read_model import schema
from mloc.services.read_model.outcomes import PIPELINE, Sums, add_sums, decode_sums, encode_sums, outcome
from mloc.services.read_model.rows import encode_task, kind_of, label_word, place, rank
from mloc.services.read_model.schema import Cursor

StatsKey = tuple[int, int, int, str, str]  # grain, owner, start, task type, model
_MOST_WORDS = 100_000  # kept in memory
_MOST_SUMS = 20_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

_ADD_TASK = "INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_MOVE_TASK = "UPDATE tasks SET place = ?, worker = ?, ended_ms = ?, rush = ?, due_ms = ? WHERE rank = ?"
_ADD_BODY = "INSERT OR REPLACE INTO bodies VALUES (?, ?, ?, ?)"
_MOVE_BODY = "UPDATE bodies SET body = ? WHERE rank = ?"
_ADD_LABEL = "INSERT OR IGNORE INTO labels VALUES (?, ?)"
_COUNT = "INSERT INTO counts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
_LABELLED = "UPDATE words SET labelled = labelled + ? WHERE id = ?"


class SumsKey(NamedTuple):
    """The tasks of one owner, type and model that were submitted in an hour; a pipeline's type is "pipeline"."""

    hour_ms: int
    owner: str
    task_type: str
    model: str

    @classmethod
    def of(cls, task: Task) -> SumsKey:
        return cls(task.submitted_ms - task.submitted_ms % HOUR_MS, task.owner, task.task_type or PIPELINE, task.model)


class Changes(Struct):
    """What the fold of one stretch of the log came to. It ends at an entry's end, so that it is a whole step."""

    touched: dict[str, tuple[Task | None, Task]] = {}
    submitted: dict[str, tuple[str, int]] = {}  # new task → entry, and when it is due by its objective (ms, 0 for none)
    due: dict[str, int] = {}  # of tasks in `touched` that were there before
    taken: dict[SumsKey, Sums] = {}


class CursorMoved(Exception):
    """Another projector wrote, or the tables were emptied: start again from the cursor that is there."""


class Writer:
    """The one writer of the file; its calls may come from any thread, one at a time."""

    def __init__(self, path: Path) -> None:
        self._db = schema.open_to_write(path)
        self._words: dict[str, int] = {"": schema.NO_WORD}
        self._kinds: dict[tuple[str, str], int] = {}
        self._sums: dict[StatsKey, Sums] = {}  # rows of `stats` as they are
        self.cursor = schema.read_cursor(self._db) or schema.start_anew(self._db)

    def close(self) -> None:
        self._db.close()

    def start_anew(self, log_id: str) -> None:
        """Raises sqlite3.Error."""
        self._forget()
        self.cursor = schema.start_anew(self._db, log_id)

    def look_again(self) -> Cursor:
        """The cursor as it is in the file now."""
        self._forget()
        self.cursor = schema.read_cursor(self._db) or schema.start_anew(self._db)
        return self.cursor

    def due(self) -> dict[str, int]:
        """Open tasks with an objective: when they are due, ms."""
        return dict(self._db.execute("SELECT id, due_ms FROM tasks INDEXED BY tasks_due JOIN bodies USING (rank) WHERE due_ms != 0"))

    def write(self, changes: Changes, cursor: Cursor) -> None:
        """`cursor` is where the changes end. Raises CursorMoved, sqlite3.Error; then nothing was written."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            there = schema.read_cursor(self._db)
            if there is None or (there.generation, there.position) != (self.cursor.generation, self.cursor.position):
                raise CursorMoved
            newest = self._put(changes)
            cursor = replace(cursor, newest_rank=max(newest, there.newest_rank))
            self._db.execute(
                "UPDATE cursor SET log_id = ?, position = ?, entry_sha256 = ?, is_complete = ?, is_partial = ?, newest_rank = ?",
                (cursor.log_id, cursor.position, cursor.entry_sha256, cursor.is_complete, cursor.is_partial, cursor.newest_rank),
            )
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._forget()
            raise
        self.cursor = cursor

    # --- rows ---

    def _put(self, changes: Changes) -> int:
        """Gives the largest rank among them."""
        added, moved, bodies, new_bodies, labels = [], [], [], [], []
        counted: dict[tuple[int, int, int, int, int], int] = {}
        sums: dict[SumsKey, Sums] = {key: dict(taken) for key, taken in changes.taken.items()}
        newest = 0
        for id, (old, new) in changes.touched.items():
            key = rank(new)
            entry_id, due_ms = changes.submitted.get(id) or ("", changes.due.get(id, 0))
            facets = self._facets(new)
            counted[facets] = counted.get(facets, 0) + 1
            kept_due = 0 if new.phase in FINAL else due_ms
            if old is None:
                place_, owner, project, kind, worker = facets
                parent = self._word(new.parent)
                added.append(
                    (key, place_, owner, project, kind, worker, parent, new.submitted_ms, new.ended_ms, -new.priority, kept_due, new.name)
                )  # fmt: skip
                new_bodies.append((key, id, entry_id, encode_task(new)))
                labels += [(self._word(label_word(*label)), key) for label in new.labels.items()]
                newest = max(newest, key)
                _add(sums, SumsKey.of(new), outcome(new, due_ms))
                continue
            before = self._facets(old)
            counted[before] = counted.get(before, 0) - 1
            bodies.append((encode_task(new), key))
            if before != facets or (old.ended_ms, old.priority) != (new.ended_ms, new.priority):
                moved.append((facets[0], facets[4], new.ended_ms, -new.priority, kept_due, key))
            if old.phase != new.phase:
                _add(sums, SumsKey.of(new), outcome(new, due_ms))
                _add(sums, SumsKey.of(new), outcome(old, due_ms), -1)
        many = self._db.executemany
        many(_ADD_TASK, added)
        many(_ADD_BODY, new_bodies)
        many(_MOVE_TASK, moved)
        many(_MOVE_BODY, bodies)
        many(_ADD_LABEL, labels)
        many(_LABELLED, [(n, word) for word, n in Counter(word for word, _ in labels).items()])
        many(_COUNT, _count_rows(counted))
        self._put_sums(sums)
        return newest

    def _facets(self, task: Task) -> tuple[int, int, int, int, int]:
        """place, owner, project, kind, worker"""
        return place(task), self._word(task.owner), self._word(task.project), self._kind(task), self._word(task.worker)

    def _put_sums(self, sums: dict[SumsKey, Sums]) -> None:
        """Each hour's also go into its day's and month's, and each owner's into everyone's."""
        changed: dict[StatsKey, None] = {}
        for key, values in sums.items():
            day = key.hour_ms - key.hour_ms % DAY_MS
            month = int(datetime.fromtimestamp(day / 1000, UTC).replace(day=1).timestamp() * 1000)
            for owner in {schema.NO_WORD, self._word(key.owner)}:
                for grain, start in ((schema.HOUR, key.hour_ms), (schema.DAY, day), (schema.MONTH, month)):
                    stats_key = (grain, owner, start, key.task_type, key.model)
                    add_sums(self._sums_of(stats_key), values)
                    changed[stats_key] = None
        self._db.executemany("INSERT OR REPLACE INTO stats VALUES (?, ?, ?, ?, ?, ?)", [(*key, encode_sums(self._sums[key])) for key in changed])
        if len(self._sums) > _MOST_SUMS:
            self._sums.clear()

    def _sums_of(self, key: StatsKey) -> Sums:
        known = self._sums.get(key)
        if known is None:
            where = "grain = ? AND owner = ? AND start_ms = ? AND task_type = ? AND model = ?"
            row = self._db.execute(f"SELECT sums FROM stats WHERE {where}", key).fetchone()
            known = self._sums[key] = decode_sums(row[0]) if row else {}
        return known

    # --- texts as numbers ---

    def _word(self, word: str) -> int:
        known = self._words.get(word)
        if known is not None:
            return known
        self._db.execute("INSERT OR IGNORE INTO words (word) VALUES (?)", (word,))
        if len(self._words) >= _MOST_WORDS:
            self._words = {"": schema.NO_WORD}
        number: int = self._db.execute("SELECT id FROM words WHERE word = ?", (word,)).fetchone()[0]
        self._words[word] = number
        return number

    def _kind(self, task: Task) -> int:
        kind = kind_of(task)
        known = self._kinds.get(kind)
        if known is not None:
            return known
        self._db.execute("INSERT OR IGNORE INTO kinds (kind, task_type) VALUES (?, ?)", kind)
        number: int = self._db.execute("SELECT id FROM kinds WHERE kind = ? AND task_type = ?", kind).fetchone()[0]
        self._kinds[kind] = number
        return number

    def _forget(self) -> None:
        """What a transaction that failed had put into the tables is not there."""
        self._words = {"": schema.NO_WORD}
        self._kinds = {}
        self._sums = {}


def _count_rows(counted: dict[tuple[int, int, int, int, int], int]) -> Iterable[tuple[int, int, int, int]]:
    rows: dict[tuple[int, int, int], int] = {}
    for (place_, owner, project, kind, worker), n in counted.items():
        words = ((schema.OWNER, owner), (schema.PROJECT, project), (schema.WORKER, worker))
        for facet, word in ((schema.EVERYTHING, schema.NO_WORD), (schema.KIND, kind), *(one for one in words if one[1])):
            key = (facet, word, place_)
            rows[key] = rows.get(key, 0) + n
    return [(*key, n) for key, n in rows.items() if n]


def _add(sums: dict[SumsKey, Sums], key: SumsKey, more: Sums, times: int = 1) -> None:
    add_sums(sums.setdefault(key, {}), more, times)
