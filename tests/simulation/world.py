"""One history from one seed: services and workers over the log in memory, on a virtual clock, with everything that can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import structlog

from mloc.core.cluster import Cluster
from mloc.core.decisions import aggregation
from mloc.core.decisions.aggregation import Done, Effect
from mloc.core.decisions.scheduling import Limits
from mloc.core.events import (
    CancelRequested,
    Device,
    Event,
    Hardware,
    Need,
    Parallel,
    RetryRequested,
    TaskPriorityChanged,
    TaskSubmitted,
    WorkerDrainRequested,
    raw,
)
from mloc.core.host_frames import RunTask
from mloc.core.resubmission import sent_again
from mloc.core.task import FINAL
from mloc.services.log.event_log import LogError, WorkerRefused
from mloc.services.log.memory_server import MemoryServer
from mloc.services.scheduler import Scheduler
from mloc.services.service_loop import ServiceLoop
from mloc.services.worker.agent import Agent, WorkerPlan
from mloc.services.worker.attempt import Attempt
from mloc.services.worker.hardware import Usage
from mloc.services.worker.input_resolution import InputResolver
from mloc.services.worker.ledger import Ledger
from tests.simulation.audit import MOST_ENTRIES, Audit, EndlessLog
from tests.simulation.faults import Chances, FaultyLog, Life, LifeClock
from tests.simulation.hosts import Machine, MemoryLedgerStore, SimulatedLauncher
from tests.simulation.virtual_loop import Stalled, VirtualLoop

EPOCH_MS = 1_700_000_000_000
TROUBLE_SEC = 25.0
PATIENCE_SEC = 400.0
TTL_SEC = 3.0
TAILS, WHOLE_LOGS = (0, 1, 5, 25), (0, 3, MOST_ENTRIES)  # what a history's restarts may lose
TASK_TYPES = ("echo", "sft", "inference")
ONE, OTHER = "one@1/vllm", "other@2/vllm"  # engines that take several tasks
PLAIN = (Need("echo", light=True), Need("echo"), Need("sft"), Need("inference", gpus=1), Need("inference", gpus=1))
NEEDS = (
    *PLAIN[:4], Need("inference", gpus=1, engine=ONE), Need("inference", gpus=1, engine=ONE), Need("inference", gpus=1, engine=OTHER),
    Need("inference", gpus=2, engine=ONE),
)  # fmt: skip


class Violation(Exception):
    """An invariant broke; the message has the seed."""


class SimulatedAggregator:
    """The aggregator's decisions with effects that take a while and touch no files."""

    name = "aggregator"

    def __init__(self, life: Life) -> None:
        self._life = life
        self._running: set[Effect] = set()
        self._done: dict[Effect, Done] = {}
        self.wake: Callable[[], None] = lambda: None

    def started(self, cluster: Cluster, now_ms: int) -> None: ...
    def folded(self, cluster: Cluster, entry: Any, event: Any) -> None: ...
    async def before_deciding(self, log: Any, now_ms: int) -> None: ...

    def block_ms(self, cluster: Cluster, now_ms: int) -> int:
        return 1000

    def decide(self, cluster: Cluster, now_ms: int) -> list[Event]:
        events, effects = aggregation.decide(cluster, self._done)
        for effect in effects:
            if effect not in self._running:
                self._running.add(effect)
                asyncio.get_running_loop().call_later(self._life.random.random() * 0.5, self._end, effect)
        return events

    def _end(self, effect: Effect) -> None:
        if self._life.alive:
            self._done[effect] = Done(result=b'{"ok":true}')
            self.wake()


class SlowInputs(InputResolver):
    """Some attempts need a while for their files."""

    def __init__(self, life: Life, log: FaultyLog, clock: LifeClock) -> None:
        super().__init__(log, clock, Path("/nowhere"), {})
        self._life = life
        self._life_clock = clock

    async def resolve(self, attempt: Attempt) -> RunTask:
        if attempt.dispatch.engine and self._life.chance(0.5):
            await self._life_clock.sleep(self._life.random.uniform(0.1, 3.0))
        return await super().resolve(attempt)


class World:
    """`without` takes protections of the log out, for mutants. `may_lose`: how many of its newest entries the server may lose at a restart.
    `needs`: of the tasks."""

    def __init__(
        self, seed: int, loop: VirtualLoop, *, without: frozenset[str] = frozenset(), may_lose: Sequence[int] = (), needs: Sequence[Need] = NEEDS,
    ) -> None:  # fmt: skip
        self.seed = seed
        self.needs = needs
        self.random = Random(seed)
        self.loop = loop
        self.chances = Chances(self.random)
        self.violations: list[str] = []
        self.audit = Audit(self._violation)
        self.server = MemoryServer(lambda: EPOCH_MS + int(loop.time() * 1000), audit=self.audit, without=without)  # type: ignore[arg-type]
        self.machines = {f"w{n}": Machine(f"w{n}", self._violation) for n in range(3)}
        self.disks = {name: bytearray() for name in self.machines}
        self.lives: dict[str, Life] = {}
        self.clusters: dict[str, ServiceLoop] = {}
        self.submitted: list[str] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._starters: dict[str, Callable[[Life], Coroutine[Any, Any, None]]] = {
            "scheduler-a": self._scheduler, "scheduler-b": self._scheduler, "aggregator-a": self._aggregator, "aggregator-b": self._aggregator,
            **dict.fromkeys(self.machines, self._worker),
        }  # fmt: skip
        self.may_lose = may_lose
        self.over = False
        self.rate = self.random.choice([0.3, 1.0, 3.0])  # troubles a second

    def _violation(self, what: str) -> None:
        if not self.over:
            self.violations.append(f"at {self.loop.time():.3f} s: {what}")

    # --- processes ---

    def start(self, name: str) -> None:
        life = Life(name, self.loop, self.random, self.chances)
        self.lives[name] = life
        self.tasks.append(self.loop.create_task(self._live(life)))

    async def _live(self, life: Life) -> None:
        try:
            await self._starters[life.name](life)
        except WorkerRefused:
            life.alive = False
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            if life.alive:
                import traceback

                self._violation(f"{life.name} ended with {type(error).__name__}: {error}\n{traceback.format_exc()}")
            life.alive = False

    async def _scheduler(self, life: Life) -> None:
        await self._service(life, Scheduler(Limits(heartbeat_ttl_ms=int(TTL_SEC * 1000), grace_sec=1.0)))

    async def _aggregator(self, life: Life) -> None:
        await self._service(life, SimulatedAggregator(life))

    async def _service(self, life: Life, decider: Any) -> None:
        log = FaultyLog(self.server, life)
        service = ServiceLoop(log, LifeClock(life, self.loop), decider, f"{life.name}-{len(self.tasks)}", stop=asyncio.Event())
        if isinstance(decider, SimulatedAggregator):
            decider.wake = service.wake.set
        self.clusters[life.name] = service
        await service.run()

    async def _worker(self, life: Life) -> None:
        machine = self.machines[life.name]
        clock = LifeClock(life, self.loop)
        ledger = Ledger(MemoryLedgerStore(self.disks[life.name], life))
        if not ledger.worker:
            await ledger.name(life.name, f"nonce-{life.name}")
        await ledger.tidy()
        number = int(life.name[1:])
        devices = tuple(Device(index, "NVIDIA H200", 80 * 2**30) for index in range(number))
        plan = WorkerPlan(
            hardware=Hardware(cpus=4, memory=2**34, devices=devices), task_types=TASK_TYPES, slots=1 + number % 2, heartbeat_interval_sec=0.5,
            heartbeat_ttl_sec=TTL_SEC, drain_sec=1.0, stop_grace_sec=1.0,
        )  # fmt: skip
        log = FaultyLog(self.server, life)
        resolver = SlowInputs(life, log, clock)
        await Agent(plan, log, clock, ledger, SimulatedLauncher(machine, life), resolver, Usage, asyncio.Event()).run()

    async def _supervise(self) -> None:
        """Restart what died, after a while; the hosts of a dead worker die too, sooner or later."""
        while True:
            await asyncio.sleep(0.01)
            for name, life in list(self.lives.items()):
                if not life.alive:
                    for host in list(self.machines[name].hosts.values()) if name in self.machines else []:
                        self.loop.call_later(self.random.choice([0.0, 0.02, 2.0]), host.die)
                    self.loop.call_later(self.random.choice([0.02, 0.3, 4.0]), self.start, name)
                    del self.lives[name]

    # --- people ---

    async def _client(self) -> None:
        life = Life("client", self.loop, self.random, self.chances)
        random = self.random
        for number in range(random.randrange(10, 40)):
            await asyncio.sleep(random.expovariate(1.6))
            await self._append(life, self._submission(number))
            if random.random() < 0.3 and self.submitted:
                task = random.choice(self.submitted)
                await self._append(life, [random.choice([CancelRequested(task=task, by="sim"), TaskPriorityChanged(task=task, priority=80)])])
            if random.random() < 0.1:
                await self._append(life, [WorkerDrainRequested(worker="w2", undo=random.random() < 0.5)])

    async def _append(self, life: Life, events: list[Event]) -> None:
        log = FaultyLog(self.server, life)
        while True:
            life.alive = True  # a client that dies is followed by one that asks again
            try:
                await asyncio.wait_for(log.submit(events), 5.0)
            except (LogError, TimeoutError):
                events = sent_again(events)
                await asyncio.sleep(0.2)
            else:
                self.submitted += [event.task for event in events if isinstance(event, TaskSubmitted)]
                return

    def _submission(self, number: int) -> list[Event]:
        random = self.random
        id = f"t{number}"
        need = random.choice(self.needs)
        fields: dict[str, Any] = {
            "need": need, "task_type": need.task_type, "spec": raw(msgspec.json.encode({"engine": need.engine})), "backoff_sec": 0.5,
            "max_attempts": 4, "timeout_sec": random.choice([0.0, 0.0, 3.0]), "priority": random.choice([50, 50, 90]),
        }  # fmt: skip
        dice = random.random()
        if dice < 0.2:
            stages = [f"{id}.a", f"{id}.b"]
            return [
                TaskSubmitted(task=id, children=tuple(stages)),
                TaskSubmitted(task=stages[0], parent=id, stage="a", **fields),
                TaskSubmitted(task=stages[1], parent=id, stage="b", depends_on=(stages[0],), **fields),
            ]
        if dice < 0.3:
            return [TaskSubmitted(task=id, parallel=Parallel(shards=2), items=4, **fields)]
        return [TaskSubmitted(task=id, **fields)]

    # --- trouble ---

    async def _trouble(self) -> None:
        random = self.random
        while self.loop.time() < TROUBLE_SEC:
            await asyncio.sleep(random.expovariate(self.rate))
            life = random.choice([*self.lives.values(), Life("nobody", self.loop, random, self.chances)])
            match random.choice(["crash", "crash", "pause", "cut off", "server", "nothing"]):
                case "crash":
                    life.alive = False
                case "pause":
                    life.paused_until = self.loop.time() + random.choice([0.2, 2.5, 6.0])
                case "cut off":
                    life.cut_off_until = self.loop.time() + random.choice([0.3, 2.5, 6.0])
                case "server":
                    self.server.stop()
                    await asyncio.sleep(random.choice([0.01, 0.5, 3.0]))
                    self._restart_server()
        self.chances.rest()
        for life in self.lives.values():
            life.paused_until = life.cut_off_until = 0.0

    def _restart_server(self) -> None:
        lost = self.random.choice(self.may_lose) if self.may_lose else 0
        self.server.restart(lost)
        if lost:
            self.audit.go_back(self.server.state.entries)

    async def _until_all_ended(self) -> None:
        life = Life("person", self.loop, self.random, self.chances)
        while self.loop.time() < PATIENCE_SEC:
            await asyncio.sleep(1.0)
            await self._append(life, [WorkerDrainRequested(worker="w2", undo=True)] if self.audit.cluster.workers.get("w2") else [_NOTHING])
            open_tasks = [task for task in self.audit.cluster.tasks.values() if task.phase not in FINAL]
            for task in open_tasks:
                if task.phase == "dead_lettered" and not task.parent and not task.retry_by:
                    await self._append(life, [RetryRequested(task=task.id, by="sim")])
            if not open_tasks:
                break

    async def run(self) -> None:
        for name in self._starters:
            self.start(name)
        client, trouble = self.loop.create_task(self._client()), self.loop.create_task(self._trouble())
        self.tasks += [client, trouble, self.loop.create_task(self._supervise())]
        await asyncio.wait([client, trouble], timeout=PATIENCE_SEC)
        await self._until_all_ended()
        for _ in range(60):  # what is still held ends, and everyone reads to the tail
            await asyncio.sleep(1.0)
            if len(self.lives) == len(self._starters) and self._all_at_tail() and not self.audit.held():
                break
        self._check_end()

    def _all_at_tail(self) -> bool:
        return all(service.cluster.position == self.audit.cluster.position for service in self.clusters.values())

    def _check_end(self) -> None:
        self.audit.check_end()
        tail = self.audit.cluster
        for name, service in self.clusters.items():
            if service.cluster.position == tail.position and service.cluster.digest() != tail.digest():
                self._violation(f"{name} has another state than the log")
            elif service.cluster.position != tail.position:
                self._violation(f"{name} stands at {service.cluster.position}, the log at {tail.position}")


_NOTHING = TaskPriorityChanged(task="nobody", priority=50)


def _bury(loop: VirtualLoop) -> None:
    """Close what still waits; the coroutines of dead processes would otherwise complain when they are collected."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        with contextlib.suppress(RuntimeError):
            task.get_coro().close()  # type: ignore[union-attr]
    asyncio.set_event_loop(None)
    loop.close()


def run_history(seed: int, **options: Any) -> World:
    """Run one history. Raises Violation with everything that broke."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    loop = VirtualLoop()
    loop.set_exception_handler(lambda *_: None)
    asyncio.set_event_loop(loop)
    world = World(seed, loop, **options)
    try:
        loop.run_until_complete(world.run())
    except Stalled as error:
        world.violations.append(str(error))
    except EndlessLog:
        world.violations.append("the log grows without end")
    finally:
        world.over = True
        _bury(loop)
    if world.violations:
        raise Violation(f"seed {seed}: {len(world.violations)} violations, first: " + "\n".join(world.violations[:4]))
    return world
