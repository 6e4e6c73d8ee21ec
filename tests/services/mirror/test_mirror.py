"""Published results in object storage, whatever happens to the store, the log and the process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from mloc.core.events import ArtifactStored, Error, Event, ResultPublished, TaskDeadLettered
from mloc.services.clock import SystemClock
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.mirror import mirror as mirroring
from mloc.services.mirror.mirror import Mirror, load_state
from mloc.services.mirror.object_store import ObjectStore
from mloc.services.results.tree_cursor import TreeState, cursor_path
from tests.services.mirror.trees import FlakyStore, write_tree
from tests.services.small_cell import Cell
from tests.services.small_cell import task as echo_task

DEADLINE_SEC = 20.0


class World:
    """A log in memory, a results folder, and the cursor of the trees."""

    def __init__(self, folder: Path) -> None:
        self.server = MemoryServer(lambda: int(time.time() * 1000))
        self.results, self.state = folder / "results", folder / "state"
        self.results.mkdir()
        self.state.mkdir()

    async def happens(self, *events: Event) -> str:
        return (await MemoryLog(self.server).submit(list(events))).last_id

    async def publish(self, *tasks: str) -> None:
        """As the aggregator does: the event, then the tree."""
        last = await self.happens(*(ResultPublished(task=task, attempt=1) for task in tasks))
        for task in tasks:
            write_tree(self.results, task, {"responses.json": task.encode()})
        self.trees_are_written(last)

    def trees_are_written(self, position: str) -> None:
        (self.state / "trees.json").write_bytes(msgspec.json.encode(TreeState(written=position)))

    @contextlib.asynccontextmanager
    async def mirror(self, store: FlakyStore, url: str = "memory://x") -> AsyncIterator[Mirror]:
        stop = asyncio.Event()
        made = Mirror(MemoryLog(self.server), SystemClock(), store, url, self.results, self.state, self.state / "trees.json")
        running = asyncio.create_task(made.run(stop))
        try:
            yield made
        finally:
            stop.set()
            await asyncio.wait_for(running, DEADLINE_SEC)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SEC):
        while not is_so():
            await asyncio.sleep(0.005)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(mirroring, "LOOK_SEC", 0.01)
    monkeypatch.setattr(mirroring, "FIRST_RETRY_SEC", 0.01)
    monkeypatch.setattr(mirroring, "LONGEST_RETRY_SEC", 0.05)
    return World(tmp_path)


async def test_each_published_result_and_each_failure_is_brought_once(world: World) -> None:
    store = FlakyStore()
    async with world.mirror(store):
        await world.publish("a", "b")
        await until(lambda: len(store.brought) == 2)
        write_tree(world.results, "c", {"responses.json": b'{"ok": false}'})
        world.trees_are_written(await world.happens(TaskDeadLettered(task="c", attempt=1, error=Error("Boom", "it broke", retryable=False))))
        await until(lambda: len(store.brought) == 3)
    assert store.brought == {"a": 1, "b": 1, "c": 1}
    assert store.contents["b"]["responses.json"] == b"b"


async def test_a_result_waits_for_its_tree(world: World) -> None:
    store = FlakyStore()
    await world.publish("a")
    async with world.mirror(store):
        await until(lambda: "a" in store.brought)
        last = await world.happens(ResultPublished(task="b", attempt=1))
        uploaded = await world.happens(ArtifactStored(task="a", name="x", sha256="0" * 64, size_bytes=1))
        write_tree(world.results, "b", {"responses.json": b"b"})
        assert "b" not in store.brought
        world.trees_are_written(last)
        await until(lambda: "b" in store.brought)
        assert store.brought["a"] == 1
        world.trees_are_written(uploaded)
        await until(lambda: store.brought["a"] == 2)  # a file that came later is brought, too


async def test_a_store_that_cannot_be_reached_is_told_of_and_nothing_is_left_out(world: World) -> None:
    store = FlakyStore(fails=1_000_000)
    async with world.mirror(store):
        await world.publish(*(f"t{number}" for number in range(10)))
        await until(lambda: "no route to the store" in load_state(world.state).trouble)
        store.fails = 3
        await until(lambda: len(store.brought) == 10)
        await until(lambda: not load_state(world.state).trouble)


async def test_a_mirror_that_was_killed_goes_on_where_it_was(world: World) -> None:
    store = FlakyStore()
    async with world.mirror(store) as first:
        await world.publish("a", "b")
        await until(lambda: len(store.brought) == 2 and first.state.position == load_state(world.state).position != "")
    await world.publish("c")
    async with world.mirror(store):
        await until(lambda: "c" in store.brought)
    assert store.brought == {"a": 1, "b": 1, "c": 1}


async def test_the_first_start_and_another_store_get_what_was_published_before(world: World) -> None:
    write_tree(world.results, "long-ago", {"responses.json": b"{}"})
    (world.results / "unfinished").mkdir()
    first, second = FlakyStore(), FlakyStore()
    async with world.mirror(first):
        await until(lambda: set(first.brought) == {"long-ago"})
    async with world.mirror(second, url="memory://y"):
        await until(lambda: set(second.brought) == {"long-ago"})


async def test_a_tree_that_was_cleared_away_keeps_nobody_back(world: World) -> None:
    store = FlakyStore()
    async with world.mirror(store):
        world.trees_are_written(await world.happens(ResultPublished(task="gone", attempt=1), ResultPublished(task="p.s0", attempt=1)))
        await world.publish("a")
        await until(lambda: "a" in store.brought)
    assert set(store.brought) == {"a"}


async def test_what_a_cell_publishes_is_in_the_store_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setattr(mirroring, "LOOK_SEC", 0.01)
    cell, names, stop = Cell(tmp_path), [f"t{number}" for number in range(20)], asyncio.Event()
    store, url = tmp_path / "store", f"file://{tmp_path}/store"
    mirror = Mirror(MemoryLog(cell.server), SystemClock(), ObjectStore(url), url, cell.results, cell.state, cursor_path(cell.state))
    async with cell.scheduler(), cell.aggregator(), cell.worker():
        running = asyncio.create_task(mirror.run(stop))
        await cell.submit(*(echo_task(name) for name in names), echo_task("sharded", light=False, items=4, shards=2))
        await until(lambda: all((store / name / "manifest.json").exists() for name in (*names, "sharded")))
        await until(lambda: mirror.state.trees >= 21)
        stop.set()
        await running
    for name in (*names, "sharded"):
        files = [path.relative_to(cell.results) for path in (cell.results / name).rglob("*") if path.is_file()]
        assert [(store / path).read_bytes() for path in files] == [(cell.results / path).read_bytes() for path in files]
    assert {path.name for path in store.iterdir()} == {*names, "sharded"}
