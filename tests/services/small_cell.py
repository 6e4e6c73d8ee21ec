"""A scheduler, an aggregator and a worker that does what a test says, on one log in memory, with real files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from mloc.core import codec, log_ids
from mloc.core.answers import Dispatch
from mloc.core.cluster import Cluster
from mloc.core.decisions.scheduling import Limits
from mloc.core.events import (
    AttemptFailed,
    AttemptReport,
    AttemptStarted,
    AttemptSucceeded,
    Error,
    Need,
    Parallel,
    TaskDispatched,
    TaskSubmitted,
    WorkerRegistered,
    raw,
)
from mloc.core.fold import evolve
from mloc.core.task import Task
from mloc.services.aggregator import Aggregator
from mloc.services.callbacks.callbacks import Callbacks, Policy
from mloc.services.clock import SystemClock
from mloc.services.log.event_log import EventLog, Report
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.results.effects import Effects
from mloc.services.results.tree_cursor import TreeCursor, cursor_path
from mloc.services.results.tree_projection import TreeProjection
from mloc.services.results.writer_link import ResultWriter
from mloc.services.retention.expiry import Expiry
from mloc.services.scheduler import Scheduler
from mloc.services.service_loop import ServiceLoop
from tests.services.inline_writer import InlineWriter

DEADLINE_SEC = 20.0
Outcome = bytes | Error | None  # an inline result, a failure, or None: the attempt's folder has the result
Behaviour = Callable[[TaskDispatched, Dispatch], Outcome]


def echo(dispatched: TaskDispatched, dispatch: Dispatch) -> Outcome:
    return msgspec.json.encode({"ok": True, "model": "echo", "items": [{"index": 0, "output": dispatched.task}], "usage": {"num_requests": 1}})


class Cell:
    def __init__(self, folder: Path) -> None:
        self.server = MemoryServer(lambda: int(time.time() * 1000))
        self.folder = folder
        self.results = folder / "results"
        self.state = folder / "state"
        self.log: EventLog = MemoryLog(self.server)
        self.trees: TreeProjection | None = None

    async def submit(self, *tasks: TaskSubmitted) -> None:
        await self.log.submit(tasks)

    async def cluster(self) -> Cluster:
        """A fold of the whole log."""
        cluster, position = Cluster(), "0-0"
        while entries := await self.log.read(position):
            for entry in entries:
                evolve(cluster, entry.id, codec.decode(entry.type, entry.payload))
            position = entries[-1].id
        return cluster

    async def until(self, condition: Callable[[Cluster], bool]) -> Cluster:
        deadline = time.monotonic() + DEADLINE_SEC
        while not condition(cluster := await self.cluster()):
            assert time.monotonic() < deadline, cluster.counts()
            await asyncio.sleep(0.01)
        return cluster

    async def until_phase(self, task: str, phase: str) -> Task:
        return (await self.until(lambda cluster: task in cluster.tasks and cluster.tasks[task].phase == phase)).tasks[task]

    @asynccontextmanager
    async def scheduler(self) -> AsyncIterator[None]:
        async with _running(lambda stop: ServiceLoop(MemoryLog(self.server), SystemClock(), Scheduler(Limits()), "s", stop=stop).run()):
            yield

    @asynccontextmanager
    async def aggregator(self, writer: ResultWriter | None = None, policy: Policy | None = None) -> AsyncIterator[TreeProjection]:
        """Ends as at SIGTERM: what was folded is written."""
        writer = writer or InlineWriter(self.results)
        reading, clock = MemoryLog(self.server), SystemClock()
        effects = Effects(reading, clock, writer, lambda: loop.wake.set())
        expiry = Expiry(self.results, lambda: log_ids.time_ms(trees.state.written), lambda: loop.wake.set())
        callbacks = Callbacks(reading, self.results, policy, lambda: loop.wake.set()) if policy is not None else None
        self.state.mkdir(parents=True, exist_ok=True)
        trees = TreeProjection(
            reading, clock, TreeCursor(cursor_path(self.state)), writer, writer,
            position=lambda: loop.cluster.position, versions_of=lambda worker: {"mloc": "test"},
        )  # fmt: skip
        stop_trees = asyncio.Event()
        stop = asyncio.Event()
        loop = ServiceLoop(MemoryLog(self.server), clock, Aggregator(effects, trees, callbacks, expiry), "a", stop=stop)
        running = [asyncio.ensure_future(loop.run()), asyncio.ensure_future(trees.run(stop_trees))]
        try:
            yield trees
        finally:
            stop.set()
            await running[0]
            stop_trees.set()
            await running[1]
            await effects.close()
            await expiry.close()
            if callbacks is not None:
                await callbacks.close()

    @asynccontextmanager
    async def worker(self, behaviour: Behaviour = echo, name: str = "w") -> AsyncIterator[None]:
        log = MemoryLog(self.server)
        incarnation = await log.incarnation(name) + 1
        event = WorkerRegistered(worker=name, incarnation=incarnation, run_id=await log.run_id(), task_types=("echo", "slow"), slots=8)
        await log.register(event, "nonce", 60_000)
        async with _running(lambda stop: self._work(log, name, incarnation, behaviour, stop)):
            yield

    async def _work(self, log: EventLog, name: str, incarnation: int, behaviour: Behaviour, stop: asyncio.Event) -> None:
        seq = 0
        while not stop.is_set():
            for entry in await log.read_inbox(name, incarnation, block_ms=20):
                event = codec.decode(entry.type, entry.payload)
                if not isinstance(event, TaskDispatched):
                    await log.acknowledge(name, incarnation, [entry.id])
                    continue
                names = {"task": event.task, "attempt": event.attempt, "worker": name, "incarnation": incarnation}
                if not (await log.start(name, incarnation, [(entry.id, AttemptStarted(**names, seq=0))]))[0]:
                    continue
                seq += 1
                report = _report(behaviour(event, msgspec.json.decode(entry.extra, type=Dispatch)), {**names, "seq": seq})
                await log.report(name, incarnation, seq, [Report(report, entry.id)])


def _report(outcome: Outcome, names: dict[str, object]) -> AttemptReport:
    match outcome:
        case Error():
            return AttemptFailed(**names, error=outcome)  # type: ignore[arg-type]
        case None:
            return AttemptSucceeded(**names, files=True)  # type: ignore[arg-type]
    return AttemptSucceeded(**names, result=raw(outcome), size_bytes=len(outcome))  # type: ignore[arg-type]


def task(id: str, spec: bytes = b'{"taskType":"echo"}', *, light: bool = True, items: int = 0, shards: int = 0, **more: object) -> TaskSubmitted:
    task_type = "echo" if light else "slow"
    return TaskSubmitted(
        task=id, name=id, task_type=task_type, spec=raw(spec), need=Need(task_type, light=light), items=items,
        parallel=Parallel(shards=shards) if shards else None, **more,
    )  # type: ignore[arg-type] # fmt: skip


async def some_work(cell: Cell, prefix: str) -> None:
    """Ten plain tasks that are published, one that is dead-lettered, one with a dependency, one in three shards."""

    def mostly_echo(dispatched: TaskDispatched, dispatch: Dispatch) -> Outcome:
        return Error("BadSpec", "no", retryable=False) if dispatched.task.endswith("bad") else echo(dispatched, dispatch)

    def ended(cluster: Cluster) -> int:
        return sum(task.id.startswith(prefix) and task.phase in ("published", "dead_lettered") for task in cluster.tasks.values())

    async with cell.scheduler(), cell.aggregator(), cell.worker(mostly_echo):
        await cell.submit(*(task(f"{prefix}{number}") for number in range(10)), task(f"{prefix}bad"))
        await cell.submit(task(f"{prefix}after", depends_on=(f"{prefix}0",)), task(f"{prefix}sharded", items=9, shards=3))
        await cell.until(lambda cluster: ended(cluster) == 16)


async def until(is_true: Callable[[], bool]) -> None:
    """Of what no event tells."""
    deadline = time.monotonic() + DEADLINE_SEC
    while not is_true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@asynccontextmanager
async def _running(run: Callable[[asyncio.Event], object]) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.ensure_future(run(stop))  # type: ignore[arg-type]
    try:
        yield
    finally:
        stop.set()
        await running
