"""The tables, and the cursor that says what they hold.

`tasks` has narrow rows of numbers, so that what no index answers is still a quick scan; texts are numbers of `words`, names apart, which are
sorted by. `bodies` has the tasks' values. `counts` are exact totals by (facet, word, place), `stats` sums by month, day and hour.
"""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

from msgspec import Struct

from mloc.core import log_ids
from mloc.core.cluster import FOLD_VERSION

VERSION = 3  # of these tables and of what is put into them: another one is built anew
EVERYTHING, OWNER, PROJECT, KIND, WORKER = range(5)  # facets of `counts`
NO_WORD = 0
MONTH, DAY, HOUR = range(3)  # grains of `stats`

_TABLES = """
CREATE TABLE cursor (
  one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER, fold_version INTEGER, generation TEXT,
  log_id TEXT, position TEXT, entry_sha256 TEXT, is_complete INTEGER, is_partial INTEGER, newest_rank INTEGER
);
CREATE TABLE tasks (
  rank INTEGER PRIMARY KEY, place INTEGER NOT NULL, owner INTEGER NOT NULL, project INTEGER NOT NULL, kind INTEGER NOT NULL,
  worker INTEGER NOT NULL, parent INTEGER NOT NULL, submitted_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL, rush INTEGER NOT NULL,
  due_ms INTEGER NOT NULL, name TEXT NOT NULL
);
CREATE INDEX tasks_place ON tasks (place);
CREATE INDEX tasks_owner ON tasks (owner, place) WHERE owner != 0;
CREATE INDEX tasks_project ON tasks (project, place) WHERE project != 0;
CREATE INDEX tasks_kind ON tasks (kind, place);
CREATE INDEX tasks_worker ON tasks (worker, place) WHERE worker != 0;
CREATE INDEX tasks_parent ON tasks (parent) WHERE parent != 0;
CREATE INDEX tasks_ended ON tasks (ended_ms);
CREATE INDEX tasks_rush ON tasks (rush);
CREATE INDEX tasks_name ON tasks (name);
CREATE INDEX tasks_kind_name ON tasks (kind, name);
CREATE INDEX tasks_due ON tasks (due_ms) WHERE due_ms != 0;
CREATE TABLE bodies (rank INTEGER PRIMARY KEY, id TEXT NOT NULL, entry_id TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX bodies_id ON bodies (id);
CREATE TABLE labels (word INTEGER, rank INTEGER, PRIMARY KEY (word, rank)) WITHOUT ROWID;
CREATE TABLE words (id INTEGER PRIMARY KEY, word TEXT NOT NULL UNIQUE, labelled INTEGER NOT NULL DEFAULT 0);
CREATE TABLE kinds (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, task_type TEXT NOT NULL, UNIQUE (kind, task_type));
CREATE TABLE counts (facet INTEGER, word INTEGER, place INTEGER, n INTEGER NOT NULL, PRIMARY KEY (facet, word, place)) WITHOUT ROWID;
CREATE TABLE stats (
  grain INTEGER, owner INTEGER, start_ms INTEGER, task_type TEXT, model TEXT, sums BLOB NOT NULL,
  PRIMARY KEY (grain, owner, start_ms, task_type, model)
) WITHOUT ROWID;
CREATE INDEX stats_start ON stats (grain, start_ms);
"""
_WRITER_PAGES_KIB = 64 * 1024
_READER_PAGES_KIB = 32 * 1024
_MAPPED_BYTES = 4 << 30  # of address space, no memory of its own
_BUSY_SEC = 10.0


class Cursor(Struct, frozen=True):
    """What the rows are the fold of: the log `log_id` up to `position`. `generation` is new whenever they are built anew."""

    generation: str
    log_id: str = ""
    position: str = log_ids.START
    entry_sha256: str = ""  # of the entry at `position`
    is_complete: bool = False  # the log's end was reached once: until then they are being built
    is_partial: bool = False  # the log's beginning was gone when they were built
    newest_rank: int = 0


def read_model_path(state_dir: Path) -> Path:
    return state_dir.absolute() / "read_model.sqlite"


def open_to_write(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.Error, OSError. Transactions are begun by who writes; each is on disk when it is committed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_BUSY_SEC, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = -{_WRITER_PAGES_KIB}")
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.Error where there is no such file. Not read-only: without a writer, someone must make the file of its shared memory."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=_BUSY_SEC, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA cache_size = -{_READER_PAGES_KIB}")
    connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
    return connection


def read_cursor(connection: sqlite3.Connection) -> Cursor | None:
    """None where the tables are not there or another version's. Raises sqlite3.Error."""
    try:
        row = connection.execute(
            "SELECT version, fold_version, generation, log_id, position, entry_sha256, is_complete, is_partial, newest_rank FROM cursor"
        ).fetchone()
    except sqlite3.OperationalError as error:
        if "no such" in str(error):
            return None
        raise
    if row is None or row[:2] != (VERSION, FOLD_VERSION):
        return None
    return Cursor(row[2], row[3], row[4], row[5], bool(row[6]), bool(row[7]), row[8])


def start_anew(connection: sqlite3.Connection, log_id: str = "") -> Cursor:
    """Empty tables in one transaction: whoever reads sees the old rows or none. Raises sqlite3.Error."""
    cursor = Cursor(secrets.token_hex(8), log_id)
    connection.execute("BEGIN IMMEDIATE")
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").fetchall()
        for (name,) in tables:
            connection.execute(f'DROP TABLE "{name}"')
        for statement in filter(str.strip, _TABLES.split(";")):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO cursor VALUES (1, ?, ?, ?, ?, ?, '', 0, 0, 0)", (VERSION, FOLD_VERSION, cursor.generation, log_id, cursor.position)
        )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return cursor
