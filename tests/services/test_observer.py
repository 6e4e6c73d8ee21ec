"""A reader folds what the services fold, and comes back by itself when the server goes away."""

import asyncio

import pytest

from mloc.core import codec
from mloc.core.cluster import Cluster
from mloc.core.events import Need, TaskSubmitted
from mloc.core.fold import evolve
from mloc.services.log.event_log import LogUnavailable
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.observer import Observed, Observer

NEED = Need("echo", light=True)


class Ticking:
    """A server's clock that moves with every look."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        self.ms += 1
        return self.ms


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer(Ticking())


async def submit(server: MemoryServer, *names: str) -> None:
    for name in names:
        await MemoryLog(server).submit([TaskSubmitted(task=name, name=name, task_type="echo", need=NEED)])


async def folded(server: MemoryServer) -> Cluster:
    cluster = Cluster()
    while entries := await MemoryLog(server).read(cluster.position):
        for entry in entries:
            evolve(cluster, entry.id, codec.decode(entry.type, entry.payload))
    return cluster


async def until(condition, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def test_catching_up_gives_the_state_that_the_services_have(server):
    await submit(server, *(f"t{i}" for i in range(700)))
    observer = Observer(MemoryLog(server))
    sizes: list[int] = []
    await observer.catch_up(lambda batch: sizes.append(len(batch)))
    assert observer.cluster.digest() == (await folded(server)).digest()
    assert observer.caught_up
    assert max(sizes) <= 256
    assert sum(sizes) == 701  # LogStarted comes first


async def test_following_folds_what_comes_and_hands_on_each_event(server):
    observer = Observer(MemoryLog(server))
    seen: list[Observed] = []
    following = asyncio.create_task(observer.follow(seen.extend))
    await submit(server, "a", "b")
    await until(lambda: "b" in observer.cluster.tasks)
    assert [one.event.task for one in seen if isinstance(one.event, TaskSubmitted)] == ["a", "b"]
    following.cancel()


async def test_waiting_for_a_position_ends_when_it_is_folded(server):
    observer = Observer(MemoryLog(server))
    following = asyncio.create_task(observer.follow())
    submitted = await MemoryLog(server).submit([TaskSubmitted(task="a", task_type="echo", need=NEED)])
    assert await observer.reach(submitted.last_id, 5)
    assert "a" in observer.cluster.tasks
    assert not await observer.reach("9999999999999-0", 0.01)
    following.cancel()


async def test_a_server_that_went_away_and_came_back_whole_changes_nothing(server):
    observer = Observer(MemoryLog(server))
    following = asyncio.create_task(observer.follow())
    await submit(server, "a")
    await until(lambda: "a" in observer.cluster.tasks)
    server.stop()
    await until(lambda: observer.trouble)
    server.restart()
    await submit(server, "b")
    await until(lambda: "b" in observer.cluster.tasks)
    assert observer.rebuilds == 0
    assert not observer.trouble
    following.cancel()


async def test_a_server_that_lost_its_tail_is_folded_again(server):
    observer = Observer(MemoryLog(server))
    following = asyncio.create_task(observer.follow())
    await submit(server, "a", "lost")
    await until(lambda: "lost" in observer.cluster.tasks)
    server.restart(lose_tail=1)
    await submit(server, "b")
    await until(lambda: "b" in observer.cluster.tasks)
    assert "lost" not in observer.cluster.tasks
    assert observer.rebuilds == 1
    assert observer.cluster.digest() == (await folded(server)).digest()
    following.cancel()


async def test_catching_up_says_when_there_is_no_server(server):
    server.stop()
    with pytest.raises(LogUnavailable):
        await Observer(MemoryLog(server)).catch_up()
