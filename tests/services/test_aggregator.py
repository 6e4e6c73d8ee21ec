"""From a success in the log to a published result and its tree, over crashes, full disks, shards and failures."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mloc.core.answers import Dispatch
from mloc.core.events import CancelRequested, Error, RetryRequested, TaskDispatched, TaskSubmitted
from mloc.services.log.event_log import TelemetryPoint
from mloc.services.results.folders import attempt_folder, is_tree_complete, sealed
from mloc.services.results.orders import Failed, Order, Reply
from mloc.services.results.writer_link import WriterProcess
from tests.services.inline_writer import InlineWriter
from tests.services.small_cell import DEADLINE_SEC, Cell, Outcome, echo, task


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(tmp_path)


class FullDisk:
    """Refuses until it is cleared."""

    def __init__(self, root: Path) -> None:
        self.is_full = True
        self.refused = 0
        self._writer = InlineWriter(root)

    async def ask(self, order: Order) -> Reply:
        if self.is_full:
            self.refused += 1
            return Failed("No space left on device: x")
        return await self._writer.ask(order)

    async def close(self) -> None: ...


def result(cell: Cell, task: str) -> dict[str, object]:
    return msgspec.json.decode((cell.results / task / "responses.json").read_bytes())


async def until(is_so: Callable[[], bool], awaited: str) -> None:
    deadline = time.monotonic() + DEADLINE_SEC
    while not is_so():
        assert time.monotonic() < deadline, f"{awaited} did not come"
        await asyncio.sleep(0.01)


async def until_there(path: Path) -> None:
    await until(path.exists, str(path))


async def test_small_results_are_published_and_their_trees_follow(cell: Cell) -> None:
    async with cell.scheduler(), cell.aggregator(), cell.worker():
        await cell.submit(*(task(f"t{number}") for number in range(200)))
        await cell.until(lambda cluster: cluster.counts() == {"published": 200})
    for number in range(200):
        assert result(cell, f"t{number}")["items"] == [{"index": 0, "output": f"t{number}"}]
    tasks = (await cell.cluster()).tasks
    assert all(is_tree_complete(cell.results, ended) for ended in tasks.values())


async def test_the_manifest_says_where_the_result_comes_from(cell: Cell) -> None:
    spec = b'{"taskType":"echo","output":{"artifacts":["final_model"]},"inference":{"seed":7}}'
    async with cell.scheduler(), cell.aggregator(), cell.worker():
        await cell.submit(task("t", spec))
        ended = await cell.until_phase("t", "published")
    manifest = msgspec.json.decode((cell.results / "t" / "manifest.json").read_bytes())
    assert manifest["result_id"] == ended.result_id
    assert (manifest["worker"], manifest["versions"], manifest["seed"]) == ("w", {"mloc": "test"}, 7)
    assert manifest["artifacts"] == [{"name": "final_model", "state": "missing"}]


async def test_a_result_with_files_is_moved_into_place_before_it_is_published(cell: Cell) -> None:
    def with_files(dispatched: TaskDispatched, _: Dispatch) -> Outcome:
        folder = cell.results / attempt_folder(dispatched.task, dispatched.attempt)
        (folder / "artifacts").mkdir(parents=True)
        (folder / "artifacts" / "weights").write_bytes(b"w")
        (folder / "responses.json").write_bytes(b'{"ok":true}')
        return None

    async with cell.scheduler(), cell.aggregator(), cell.worker(with_files):
        await cell.submit(task("t", light=False))
        await cell.until_phase("t", "published")
        assert (cell.results / "t" / "artifacts" / "weights").read_bytes() == b"w"
        assert sealed(cell.results / "t") is not None


async def test_shards_are_merged_in_order_and_have_no_folders_of_their_own(cell: Cell) -> None:
    async with cell.scheduler(), cell.aggregator(), cell.worker():
        await cell.submit(task("t", items=40, shards=4))
        await cell.until_phase("t", "published")
    assert result(cell, "t")["items"] == [{"index": index, "output": f"t.s{index}"} for index in range(4)]
    assert result(cell, "t")["usage"] == {"num_requests": 4}
    assert [path.name for path in cell.results.iterdir()] == ["t"]


async def test_a_pipeline_says_what_its_stages_gave(cell: Cell) -> None:
    pipeline = TaskSubmitted(task="p", name="p", children=("p.a", "p.b"))
    async with cell.scheduler(), cell.aggregator(), cell.worker():
        await cell.submit(pipeline, task("p.a", parent="p", stage="a"), task("p.b", parent="p", stage="b", depends_on=("p.a",)))
        await cell.until_phase("p", "published")
    assert result(cell, "p")["stages"] == {"a": {"task_id": "p.a", "ok": True}, "b": {"task_id": "p.b", "ok": True}}


async def test_stages_with_the_pipelines_destination_each_get_a_folder_in_it(cell: Cell) -> None:
    spec = b'{"taskType":"echo","output":{"destination":{"path":"exports/run"}}}'
    pipeline = TaskSubmitted(task="p", name="p", children=("p.a", "p.b", "p.c"))
    stages = [task(f"p.{stage}", spec, parent="p", stage=stage) for stage in "abc"]
    async with cell.scheduler(), cell.aggregator(), cell.worker():
        await cell.submit(pipeline, *stages)
        await cell.until_phase("p", "published")
    assert sorted(path.name for path in (cell.results / "exports" / "run").iterdir()) == ["a", "b", "c"]


async def test_failures_have_trees_and_a_retry_that_succeeds_replaces_them(cell: Cell) -> None:
    fails = True

    def sometimes(dispatched: TaskDispatched, dispatch: Dispatch) -> Outcome:
        return Error("BadSpec", "no such model", retryable=False) if fails else echo(dispatched, dispatch)

    async with cell.scheduler(), cell.aggregator(), cell.worker(sometimes):
        # given a pipeline whose only stage is dead-lettered
        await cell.submit(TaskSubmitted(task="p", name="p", children=("p.a",)), task("p.a", parent="p", stage="a"))
        await cell.until_phase("p.a", "dead_lettered")
        await until_there(cell.results / "p" / "manifest.json")
        assert result(cell, "p.a") == {"ok": False, "error": {"type": "BadSpec", "message": "no such model", "retryable": False}}
        assert "p.a: no such model" in str(result(cell, "p"))
        # when a person retries it and it works
        fails = False
        await cell.log.submit([RetryRequested(task="p.a")])
        await cell.until_phase("p", "published")
    # then the trees are those of the results
    assert result(cell, "p.a")["ok"] is True
    assert result(cell, "p")["ok"] is True


async def test_a_cancelled_task_has_a_tree_that_says_so(cell: Cell) -> None:
    async with cell.scheduler(), cell.aggregator():
        await cell.submit(task("t"))
        await cell.log.submit([CancelRequested(task="t", reason="not needed")])
        await cell.until_phase("t", "cancelled")
        await until_there(cell.results / "t" / "manifest.json")
    assert result(cell, "t")["error"] == {"type": "Cancelled", "message": "not needed", "retryable": False}


async def test_telemetry_becomes_files_of_the_tree(cell: Cell) -> None:
    await cell.log.append_telemetry([("t", TelemetryPoint(1, "hello")), ("t", TelemetryPoint(1, step=3, metrics={"loss": 0.5}))])
    async with cell.scheduler(), cell.aggregator(), cell.worker():
        await cell.submit(task("t", light=False))
        await cell.until_phase("t", "published")
    logs = cell.results / "t" / "logs"
    assert (logs / "task.log").read_text().endswith("[1] hello\n")
    assert msgspec.json.decode((logs / "metrics.jsonl").read_bytes())["loss"] == 0.5
    manifest = msgspec.json.decode((cell.results / "t" / "manifest.json").read_bytes())
    assert {file["path"]: file["sha256"] for file in manifest["files"]}["logs/task.log"] == hashlib.sha256(
        (logs / "task.log").read_bytes()
    ).hexdigest()


async def test_a_full_disk_delays_trees_but_neither_publication_nor_the_trees_of_later(cell: Cell) -> None:
    disk = FullDisk(cell.results)
    async with cell.scheduler(), cell.aggregator(disk) as trees, cell.worker():
        await cell.submit(*(task(f"t{number}") for number in range(20)))
        await cell.until(lambda cluster: cluster.counts() == {"published": 20})
        await until(lambda: trees.state.failures > 0, "a refused tree")
        assert not cell.results.exists()
        disk.is_full = False
        for number in range(20):
            await until_there(cell.results / f"t{number}" / "manifest.json")


async def test_files_that_cannot_be_published_are_tried_again_and_said(cell: Cell) -> None:
    def with_files(dispatched: TaskDispatched, dispatch: Dispatch) -> Outcome:
        if dispatch.light:
            return echo(dispatched, dispatch)
        folder = cell.results / attempt_folder(dispatched.task, dispatched.attempt)
        folder.mkdir(parents=True)
        (folder / "responses.json").write_bytes(b'{"ok":true}')
        return None

    disk = FullDisk(cell.results)
    async with cell.scheduler(), cell.aggregator(disk), cell.worker(with_files):
        await cell.submit(task("files", light=False), task("inline"))
        # an inline result does not wait for the disk
        await cell.until_phase("inline", "published")
        assert (await cell.cluster()).tasks["files"].phase != "published"
        disk.is_full = False
        await cell.until_phase("files", "published")


async def test_trees_that_were_not_written_before_a_crash_are_written_after_it(cell: Cell) -> None:
    # given an aggregator that published, and was killed before it wrote one tree
    disk = FullDisk(cell.results)
    async with cell.scheduler(), cell.worker():
        async with cell.aggregator(disk):
            await cell.submit(*(task(f"t{number}") for number in range(50)))
            await cell.until(lambda cluster: cluster.counts() == {"published": 50})
        # when it is started again
        async with cell.aggregator():
            await until_there(cell.results / "t49" / "manifest.json")
    # then nothing is missing
    assert {path.name for path in cell.results.iterdir()} == {f"t{number}" for number in range(50)}


async def test_all_trees_can_be_written_again_from_the_log(cell: Cell) -> None:
    async with cell.scheduler(), cell.worker():
        async with cell.aggregator():
            await cell.submit(*(task(f"t{number}") for number in range(50)))
            await cell.until(lambda cluster: cluster.counts() == {"published": 50})
        # given that both the trees and their cursor are gone
        for file in [*cell.results.rglob("*.json"), *cell.state.iterdir()]:
            file.unlink()
        # when the aggregator starts
        async with cell.aggregator():
            await until_there(cell.results / "t49" / "manifest.json")
    assert len(list(cell.results.rglob("manifest.json"))) == 50


async def test_a_projection_that_falls_behind_reads_the_log_and_misses_nothing(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mloc.services.results.tree_projection.QUEUE", 7)
    async with cell.scheduler(), cell.aggregator(), cell.worker():
        await cell.submit(*(task(f"t{number}") for number in range(256)))
        await cell.until(lambda cluster: cluster.counts() == {"published": 256})
        for number in range(256):
            await until_there(cell.results / f"t{number}" / "manifest.json")


async def test_a_writer_in_its_own_process_is_started_again_when_it_dies(cell: Cell) -> None:
    writer = WriterProcess(cell.results)
    try:
        async with cell.scheduler(), cell.aggregator(writer), cell.worker():
            await cell.submit(task("before"))
            await until_there(cell.results / "before" / "manifest.json")
            assert writer._child is not None
            writer._child.kill()
            await cell.submit(task("after"))
            await until_there(cell.results / "after" / "manifest.json")
    finally:
        await writer.close()
