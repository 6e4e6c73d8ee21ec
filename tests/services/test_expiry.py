"""Results with a time to live: their files go when it is over and nobody needs them, and everything else about the task stays."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mloc.core.cluster import from_bytes
from mloc.core.decisions import expiry
from mloc.core.events import CallbackMade, Receiver, ResultExpired
from mloc.services.intake.known_tasks import KnownTasks
from mloc.services.intake.published_results import read_result
from mloc.services.intake.submission import DependencyError
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.results.folders import is_tree_complete
from tests.histories import History
from tests.services.small_cell import Cell, task


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(tmp_path)


def due(history: History, removed: set[str] | None = None) -> tuple[list[str], list[str]]:
    events, removals = expiry.decide(history.cluster, history.now_ms, removed or set())
    return [event.task for event in events], removals  # type: ignore[attr-defined]


async def test_the_files_go_and_the_task_stays(cell: Cell) -> None:
    async with cell.scheduler(), cell.worker(), cell.aggregator():
        await cell.submit(task("kept"), task("t", ttl_sec=0.3))
        ended = await cell.until_phase("t", "published")
        await cell.until(lambda cluster: bool(cluster.tasks["t"].expired_ms))
    cluster = await cell.cluster()
    gone = cluster.tasks["t"]
    assert gone.phase == "published"
    assert gone.expired_ms >= ended.since_ms + 300
    assert not (cell.results / "t").exists()
    assert is_tree_complete(cell.results, cluster.tasks["kept"])
    assert await read_result(cell.log, cell.results, gone) is None
    with pytest.raises(DependencyError, match="was kept for"):
        KnownTasks(cluster, cell.results).find("t")


async def test_what_was_due_while_nobody_was_there_goes_after_the_next_start(cell: Cell) -> None:
    passed_ms = [0]
    cell.server = MemoryServer(lambda: int(time.time() * 1000) + passed_ms[0])
    cell.log = MemoryLog(cell.server)
    async with cell.scheduler(), cell.worker(), cell.aggregator():
        await cell.submit(task("t", ttl_sec=3600))
        await cell.until_phase("t", "published")
    assert (cell.results / "t").is_dir()
    passed_ms[0] = 3_601_000
    async with cell.aggregator():
        await cell.until(lambda cluster: bool(cluster.tasks["t"].expired_ms))
    assert not (cell.results / "t").exists()


def test_it_is_asked_for_until_the_files_are_gone_and_then_told_once() -> None:
    history = History()
    history.worker("w")
    history.submit("t", ttl_sec=10)
    history.settle()
    assert due(history) == ([], [])
    history.now_ms += 10_000
    assert due(history) == ([], ["t"])
    assert due(history, {"t"}) == (["t"], [])
    history.add(ResultExpired(task="t", due_ms=history.cluster.expiring[0][0]))
    assert due(history) == ([], [])


def test_it_waits_for_those_who_need_it() -> None:
    history = History()
    history.worker("w")
    history.submit("t", ttl_sec=1)
    history.submit("told", ttl_sec=1, receivers=(Receiver("notice", "http://h"),))
    history.settle()
    history.submit("later", depends_on=("t", "never"))
    history.now_ms += 60_000
    assert due(history)[1] == []
    history.add(CallbackMade(task="told", what="notice", ended_ms=history.cluster.tasks["told"].callbacks[0].ended_ms))
    assert due(history)[1] == ["told"]


def test_it_is_known_also_of_tasks_that_left_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mloc.core.cluster.KEEP_ENDED", 1)
    history = History()
    history.worker("w")
    for number in range(6):
        history.submit(f"t{number}", ttl_sec=60)
    history.settle()
    assert "t0" not in history.cluster.tasks
    history.now_ms += 120_000
    again = from_bytes(history.cluster.to_bytes())
    assert again.digest() == history.cluster.digest()
    assert sorted(expiry.decide(again, history.now_ms, set())[1]) == [f"t{number}" for number in range(6)]
    for due_ms, id in sorted(history.cluster.expiring):
        history.add(ResultExpired(task=id, due_ms=due_ms))
    assert (history.cluster.expiring, due(history)) == ([], ([], []))
