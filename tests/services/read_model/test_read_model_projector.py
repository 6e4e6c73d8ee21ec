"""The read model is what the log says: after a crash, a second projector, a lost tail, another version, a damaged file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from mloc.core import log_ids
from mloc.core.events import CancelRequested
from mloc.services.clock import SystemClock
from mloc.services.intake.task_query import TaskQuery
from mloc.services.intake.views import task_view
from mloc.services.log.cluster_snapshots import ClusterSnapshots
from mloc.services.log.memory_log import MemoryLog
from mloc.services.observer import Observer
from mloc.services.read_model import projector as projectors
from mloc.services.read_model.projector import NAME, Projector
from mloc.services.read_model.reader import Reader, Unreadable
from mloc.services.read_model.schema import open_to_write, read_cursor, start_anew
from mloc.services.read_model.task_index import TaskIndex, find_in_memory
from mloc.services.read_model.writer import CursorMoved, Writer
from tests.services.small_cell import Cell, some_work, task, until


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projectors, "WRITE_SEC", 0.02)
    monkeypatch.setattr(projectors, "PAUSE_SEC", 0.01)
    monkeypatch.setattr(projectors, "BLOCK_MS", 20)
    monkeypatch.setattr(projectors, "RENEW_SEC", 0.05)


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(tmp_path)


def model(cell: Cell) -> Path:
    return cell.state / "read_model.sqlite"


def position(cell: Cell, *, complete: bool = False) -> str:
    """Where the tables stand. `complete`: at the start until they were at the log's end once."""
    reader = Reader(model(cell))
    try:
        cursor = reader.cursor()
        return cursor.position if cursor.is_complete or not complete else log_ids.START
    except Unreadable:
        return log_ids.START
    finally:
        reader.close()


@asynccontextmanager
async def projecting(cell: Cell, *, killed: bool = False, snapshots: bool = True) -> AsyncIterator[None]:
    """Until it has written all that is in the log. `killed`: at its end it writes nothing more."""
    stop = asyncio.Event()
    kept = ClusterSnapshots(cell.state / "snapshots", NAME, every_sec=0.0) if snapshots else None
    leaders = cell.server.state.leaders
    before = leaders[NAME].epoch if NAME in leaders else 0
    running = asyncio.ensure_future(Projector(MemoryLog(cell.server), SystemClock(), model(cell), stop=stop, snapshots=kept).run())
    try:
        yield
        await until(lambda: running.done() or (NAME in leaders and leaders[NAME].epoch > before))  # taking the lease writes into the log, too
        last = (await cell.log.ends())[1]
        await until(lambda: running.done() or not log_ids.before(position(cell, complete=True), last))
    finally:
        if killed:
            running.cancel()
            cell.server.state.leaders[NAME].expires = 0
        else:
            stop.set()
        await asyncio.gather(running, return_exceptions=killed)


async def assert_is_what_the_log_says(cell: Cell) -> None:
    cluster, reader = await cell.cluster(), Reader(model(cell))
    assert reader.cursor().position == cluster.position
    for query in (TaskQuery(page_size=500), TaskQuery(phases=frozenset({"published"})), TaskQuery(parent="none", sort="ended")):
        assert reader.find(query, {})[1] == find_in_memory(cluster, query)
    reader.close()


async def test_what_ends_while_it_runs_or_before_is_in_the_read_model(cell: Cell) -> None:
    await some_work(cell, "a")
    async with projecting(cell):
        await some_work(cell, "b")
    await assert_is_what_the_log_says(cell)


@pytest.mark.parametrize("snapshots", [True, False])
async def test_a_killed_projector_goes_on_where_the_tables_stand(cell: Cell, snapshots: bool) -> None:
    for round_ in "abc":
        async with projecting(cell, killed=True, snapshots=snapshots):
            await some_work(cell, round_)
    async with projecting(cell, snapshots=snapshots):
        pass
    await assert_is_what_the_log_says(cell)
    totals = dict(sqlite3.connect(model(cell)).execute("SELECT place, n FROM counts WHERE facet = 0 AND n != 0"))
    assert sum(totals.values()) == 3 * 16


async def test_rows_and_cursor_are_written_together_or_not_at_all(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    # given tables that hold a first part
    async with projecting(cell):
        await some_work(cell, "a")
    writer = Writer(model(cell))
    before = writer.cursor
    # when another projector was faster
    Writer(model(cell)).start_anew("log")
    # then this one writes nothing
    with pytest.raises(CursorMoved):
        writer.write(projectors.Gathering(await cell.cluster(), {}).take(), replace(before, position="9-0"))
    assert position(cell) == log_ids.START
    writer.close()


async def test_tables_of_another_version_or_emptied_by_a_person_are_built_anew_while_it_runs(cell: Cell) -> None:
    async with projecting(cell):
        await some_work(cell, "a")
        await until(lambda: position(cell) != log_ids.START)
        connection = open_to_write(model(cell))
        start_anew(connection)
        await some_work(cell, "b")
    await assert_is_what_the_log_says(cell)
    connection.execute("UPDATE cursor SET version = version + 1")
    assert read_cursor(connection) is None
    connection.close()
    async with projecting(cell):
        pass
    await assert_is_what_the_log_says(cell)


async def test_a_log_that_lost_its_tail_is_folded_anew(cell: Cell) -> None:
    # given a read model of more than the log has now
    async with projecting(cell):
        await some_work(cell, "a")
    cell.server.restart(lose_tail=20)
    # when something else happens
    async with projecting(cell):
        await cell.submit(task("b"))
    # then the lost tasks are not in it, and the new one is
    await assert_is_what_the_log_says(cell)
    assert Reader(model(cell)).get("b") is not None


async def test_a_damaged_file_is_put_aside_and_built_anew(cell: Cell) -> None:
    async with projecting(cell):
        await some_work(cell, "a")
    model(cell).write_bytes(b"no database at all" * 1000)
    async with projecting(cell):
        pass
    await assert_is_what_the_log_says(cell)
    assert (cell.state / "read_model.damaged").exists()


async def test_a_list_has_what_was_written_a_moment_ago_and_what_left_memory(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a memory that keeps no finished task, and a read model of them
    async with projecting(cell):
        await some_work(cell, "a")
    monkeypatch.setattr("mloc.core.cluster.KEEP_ENDED", 0)
    observer = Observer(cell.log)
    await observer.catch_up()
    index = TaskIndex(observer, cell.log, model(cell), follows=False)
    # when a task is submitted, which no projector sees
    await cell.submit(task("new"))
    await observer.catch_up()
    page = await index.find(TaskQuery(phases=frozenset({"ready", "published"}), parent="none"))
    # then both are in one list
    assert page.tasks[0].id == "new"
    assert (len(page.tasks), page.total) == (13, 13)
    assert "a3" not in observer.cluster.tasks
    old = index.get("a3")
    assert old is not None
    assert old.phase == "published"
    assert index.newest_named(old.name) == old
    assert b"echo" in await index.spec(old)
    index.close()


async def test_a_read_model_of_another_log_or_of_a_lost_tail_is_not_used(cell: Cell, tmp_path: Path) -> None:
    async with projecting(cell):
        await some_work(cell, "a")
    other = Cell(tmp_path / "other")
    await some_work(other, "z")
    other_observer = Observer(other.log)
    await other_observer.catch_up()
    index = TaskIndex(other_observer, other.log, model(cell), follows=False)
    page = await index.find(TaskQuery(parent="none"))
    assert {one.id[0] for one in page.tasks} == {"z"}
    # and after the server lost what the tables have
    cell.server.restart(lose_tail=20)
    observer = Observer(cell.log)
    await cell.submit(task("b"), task("c"))
    await observer.catch_up()
    page = await TaskIndex(observer, cell.log, model(cell), follows=False).find(TaskQuery(page_size=500))
    assert page == find_in_memory(observer.cluster, TaskQuery(page_size=500))


async def test_a_doomed_task_says_why_also_from_the_list(cell: Cell) -> None:
    async with projecting(cell):
        await cell.submit(task("a"))
        await cell.log.submit([CancelRequested(task="a", by="ada")])
    await assert_is_what_the_log_says(cell)
    (listed,) = Reader(model(cell)).find(TaskQuery(), {})[1].tasks
    assert "ada" in task_view(await cell.cluster(), listed).reason
