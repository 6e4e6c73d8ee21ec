"""Counting survives restarts, lost tails and full disks; its files can be read by those they are for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from mloc.core import codec, log_ids
from mloc.core.events import Event, Receiver, RetryRequested
from mloc.services.clock import SystemClock
from mloc.services.log.memory_log import MemoryLog
from mloc.services.metrics.counts import STATES, Counts
from mloc.services.metrics.event_lines import EventLines
from mloc.services.metrics.exposition import Surroundings, as_prometheus
from mloc.services.metrics.projector import Projector
from mloc.services.read_model.projector import Projector as ReadModelProjector
from mloc.services.read_model.schema import read_model_path
from tests.services.small_cell import Cell, some_work, task, until

SAMPLE = re.compile(r'[a-zA-Z_:][a-zA-Z0-9_:]*(\{[a-z_]+="(?:[^"\\\n]|\\["\\n])*"(,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*\})? -?[0-9.e+]+(inf)?')


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(tmp_path)


def lines_of(cell: Cell, max_bytes: int = 2**20, backups: int = 2) -> EventLines:
    return EventLines(cell.state / "metrics" / "events.log", max_bytes, backups)


@asynccontextmanager
async def projecting(
    cell: Cell, *, save_sec: float = 20.0, killed: bool = False, waiting_callbacks: Callable[[], int | None] = lambda: None
) -> AsyncIterator[Projector]:
    """`killed`: ends without saving anything."""
    stop = asyncio.Event()
    projector = Projector(
        MemoryLog(cell.server), SystemClock(), cell.state / "metrics", lines_of(cell), stop=stop, save_sec=save_sec,
        waiting_callbacks=waiting_callbacks,
    )  # fmt: skip
    running = asyncio.ensure_future(projector.run())
    try:
        yield projector
        last = (await cell.log.ends())[1]
        await until(lambda: not log_ids.before(projector.counts.position, last))
    finally:
        if killed:
            running.cancel()
            cell.server.state.leaders["metrics"].expires = 0
        else:
            stop.set()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_numbers_are_those_of_the_cluster(cell: Cell) -> None:
    async with projecting(cell) as projector:
        await some_work(cell, "a")
    counts, cluster = projector.counts, await cell.cluster()
    assert dict(zip(STATES, counts.by_state, strict=True))["dead_lettered"] == cluster.counts()["dead_lettered"] == 1
    assert counts.ended == {"published": cluster.counts()["published"] - 1}  # the sharded task itself is no task with attempts
    assert counts.submitted == {"echo": 13}
    assert counts.failures == {"BadSpec": 1}
    assert counts.dispatch.count == 15
    assert counts.publication.count == 14
    assert list(counts.workers) == ["w"]


async def test_nothing_is_counted_twice_after_a_restart_or_a_kill(cell: Cell) -> None:
    # given a projector that saved, counted on, and was killed
    async with projecting(cell):
        await some_work(cell, "a")
    async with projecting(cell, killed=True):
        await some_work(cell, "b")
    # when it starts again
    async with projecting(cell) as projector:
        await some_work(cell, "c")
    # then it has counted what one that never stopped counts
    whole = Counts()
    position = "0-0"
    while entries := await cell.log.read(position):
        for entry in entries:
            event = codec.decode(entry.type, entry.payload)
            assert isinstance(event, Event)
            whole.fold(entry.id, int(entry.id.partition("-")[0]), entry.type, event)
        position = entries[-1].id
    assert msgspec.structs.replace(projector.counts, entry_sha256="") == whole
    # and every event has one line
    lines = (cell.state / "metrics" / "events.log").read_text().splitlines()
    assert len(lines) == len({line.split()[1] for line in lines}) == sum(whole.events.values())


async def test_the_cursor_of_the_group_follows(cell: Cell) -> None:
    async with projecting(cell) as projector:
        await cell.submit(task("t"))
    assert cell.server.state.groups["metrics"] == projector.counts.position


async def test_the_text_is_what_prometheus_reads(cell: Cell) -> None:
    async with projecting(cell):
        await some_work(cell, "a")
    text = (cell.state / "metrics" / "metrics.prom").read_text()
    assert text.endswith("\n")
    named = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in named
            named[name] = kind
        elif not line.startswith("# HELP "):
            assert SAMPLE.fullmatch(line), line
            family = re.sub(r"_(bucket|sum|count)(?=[{ ])", "", line) if "_bucket" in line or "_seconds_" in line else line
            assert re.split(r"[{ ]", family)[0] in named, line
    assert 'mloc_tasks_ended_total{outcome="published"} 14' in text
    assert msgspec.json.decode((cell.state / "metrics" / "metrics.json").read_bytes())["tasks"]["dead_lettered"] == 1


async def test_receivers_that_wait_are_shown_while_their_number_is_known(cell: Cell) -> None:
    # given a task that has ended, and a receiver that nobody tells
    async with cell.scheduler(), cell.aggregator(), cell.worker():
        await cell.submit(task("t", receivers=(Receiver("notice", "http://127.0.0.1:1/"),)))
        await cell.until_phase("t", "published")
    stop = asyncio.Event()
    read_model = ReadModelProjector(MemoryLog(cell.server), SystemClock(), read_model_path(cell.state), stop=stop)
    text = cell.state / "metrics" / "metrics.prom"
    # when the fold that knows them has not begun, then nothing is said of them
    async with projecting(cell, waiting_callbacks=lambda: read_model.waiting_callbacks):
        await until(text.exists)
        assert "mloc_callbacks_waiting" not in text.read_text()
        # and when it has come to the log's end, their number is there
        folding = asyncio.ensure_future(read_model.run())
        await until(lambda: "\nmloc_callbacks_waiting 1\n" in text.read_text())
        assert msgspec.json.decode(text.with_suffix(".json").read_bytes())["waiting_callbacks"] == 1
        stop.set()
        await folding


def test_labels_from_outside_are_escaped() -> None:
    counts = Counts(failures={'a"b\nc\\': 1})
    assert r'mloc_attempt_failures_total{type="a\"b\nc\\"} 1' in as_prometheus(counts, Surroundings(0)).decode()


def test_the_event_lines_turn_over_and_go_on_behind_their_last_line(tmp_path: Path) -> None:
    path = tmp_path / "events.log"

    def add(numbers: range) -> None:
        lines = EventLines(path, 2000, 2)
        for number in numbers:
            lines.add(f"{1_700_000_000_000 + number}-0", RetryRequested(task=f"t{number}", by="a person"))
            lines.flush()

    # given a file whose last line was cut by a crash
    add(range(0, 10))
    with path.open("ab") as file:
        file.write(b"2026-01-01T00:00:00.000Z 99999")
    # when events that it has, and newer ones, are added
    add(range(5, 200))
    # then there is one line each, and no more files than were asked for
    files = sorted(tmp_path.iterdir(), key=lambda file: file.name, reverse=True)
    assert [file.name for file in files] == ["events.log.2", "events.log.1", "events.log"]
    lines = [line for file in files for line in file.read_text().splitlines()]
    numbers = [int(line.split()[1].partition("-")[0]) - 1_700_000_000_000 for line in lines]
    assert numbers == list(range(numbers[0], 200))
    assert all(file.stat().st_size <= 2000 for file in files)
    assert lines[-1] == '2023-11-14T22:13:20.199Z 1700000000199-0 RetryRequested task=t199 by="a person"'

