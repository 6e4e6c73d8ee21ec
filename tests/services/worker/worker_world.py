"""A worker's agent in a small world that the test drives: a log in memory that can fail, hosts that say what the test makes them say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from mloc.core import codec
from mloc.core.answers import Answer, Dispatch
from mloc.core.events import AttemptStopRequested, Event, Hardware, TaskDispatched, WorkerRegistered
from mloc.core.host_frames import Quit, RunTask, StopTask, Succeeded
from mloc.services.clock import SystemClock
from mloc.services.log.event_log import EventLog, Lease, LogUnavailable
from mloc.services.transfers.transfers import Transfers
from mloc.services.worker.agent import Agent, WorkerPlan
from mloc.services.worker.hardware import Usage
from mloc.services.worker.hosts.host_link import HostExit, HostPlan, HostWatch
from mloc.services.worker.input_resolution import InputResolver
from mloc.services.worker.ledger import HostStarted, Ledger


class MemoryStore:
    """A ledger that outlives the agent. `synced` notes what was on disk when."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content
        self.failing = False

    @property
    def size(self) -> int:
        return len(self.content)

    def load(self) -> bytes:
        return self.content

    async def append(self, lines: bytes, *, sync: bool) -> None:
        if self.failing:
            raise OSError(28, "No space left on device")
        self.content += lines
        if sync:
            await asyncio.sleep(0)

    async def rewrite(self, content: bytes) -> None:
        self.content = content


class FakeHost:
    """A host process that does nothing by itself, or answers every task at once where `obedient`."""

    def __init__(self, pid: int, plan: HostPlan, watch: HostWatch, obedient: bool) -> None:
        self.record = HostStarted(pid, "1")
        self.plan = plan
        self.watch = watch
        self.obedient = obedient
        self.frames: list[Any] = []
        self.unsent_bytes = 0
        self.alive = True

    def send(self, frames: Sequence[Any]) -> None:
        self.frames += frames
        if any(isinstance(frame, Quit) for frame in frames):
            self.die()
        if self.obedient:
            answers = [succeeded(frame) for frame in frames if isinstance(frame, RunTask)]
            if answers:
                asyncio.get_running_loop().call_soon(self.say, *answers)

    def kill(self) -> None:
        self.die(signal=9)

    def die(self, code: int = 0, signal: int = 0) -> None:
        if self.alive:
            self.alive = False
            asyncio.get_running_loop().call_soon(self.watch.ended, HostExit(code, signal))

    def say(self, *frames: Any) -> None:
        if self.alive:
            self.watch.frames(list(frames))

    @property
    def tasks(self) -> list[str]:
        return [frame.task for frame in self.frames if isinstance(frame, RunTask)]

    @property
    def stops(self) -> list[str]:
        return [frame.task for frame in self.frames if isinstance(frame, StopTask)]


def succeeded(run: RunTask) -> Succeeded:
    return Succeeded(run.task, run.attempt, b'{"ok":true}', duration_ms=1.0)


class FakeLauncher:
    def __init__(self, *, obedient: bool = True) -> None:
        self.obedient = obedient
        self.hosts: list[FakeHost] = []
        self.orphans_killed: list[int] = []
        self.refusing = False

    async def launch(self, plan: HostPlan, watch: HostWatch) -> FakeHost:
        await asyncio.sleep(0)
        if self.refusing:
            raise OSError(11, "Resource temporarily unavailable")
        self.hosts.append(FakeHost(100 + len(self.hosts), plan, watch, self.obedient))
        return self.hosts[-1]

    async def kill_orphans(self, hosts: Sequence[HostStarted]) -> None:
        self.orphans_killed += [host.pid for host in hosts]

    @property
    def light(self) -> FakeHost:
        return [host for host in self.hosts if host.plan.light][-1]

    @property
    def heavy(self) -> list[FakeHost]:
        return [host for host in self.hosts if not host.plan.light]


class FaultyLog:
    """An event log whose calls can be made to fail before or after they had their effect, or to wait."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.faults: dict[str, list[tuple[str, Exception]]] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.dead = False  # its process was killed

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            if self.dead:
                raise asyncio.CancelledError
            self.calls.append((name, arguments))
            if (held := self.held.get(name)) is not None:
                await held.wait()
            when, error = self.faults[name].pop(0) if self.faults.get(name) else ("", LogUnavailable())
            if when == "before":
                raise error
            answer = await getattr(self.log, name)(*arguments, **options)
            if self.dead:
                raise asyncio.CancelledError
            if when == "after":
                raise error
            return answer

        return call

    def fail(self, name: str, *, when: str = "before", error: Exception | None = None, times: int = 1) -> None:
        """The next calls of `name` fail: `before` they arrive, or `after` (the reply is lost)."""
        self.faults.setdefault(name, []).extend([(when, error or LogUnavailable("no connection"))] * times)

    def hold(self, name: str) -> asyncio.Event:
        """Calls of `name` wait until the event is set."""
        self.held[name] = asyncio.Event()
        return self.held[name]


class World:
    """One worker `w1`, its log, its hosts and its ledger; what the scheduler would send, the test sends."""

    def __init__(self, connect: Callable[[], EventLog], folder: Path, *, obedient: bool = True, **plan: Any) -> None:
        """`connect` gives a new client of the same log."""
        self.connect = connect
        self.truth = connect()
        self.folder = folder
        self.log, self.reader = FaultyLog(connect()), FaultyLog(connect())
        self._lease: Lease | None = None
        self._commit_no = 0
        self.store = MemoryStore()
        self.launcher = FakeLauncher(obedient=obedient)
        self.variables: dict[str, str] = {}
        self.transfers: Transfers | None = None
        self.plan = WorkerPlan(
            **{
                "hardware": Hardware("here", 4.0, 2**30), "task_types": ("echo", "sft"),
                "heartbeat_interval_sec": 0.05, "heartbeat_ttl_sec": 5.0, "drain_sec": 0.2, "stop_grace_sec": 0.2, **plan,
            },
        )  # fmt: skip
        self.agents: list[asyncio.Task[None]] = []

    async def start(self) -> Agent:
        """Start the agent, or start it again after a crash."""
        ledger = Ledger(self.store)
        if not ledger.nonce:
            await ledger.name("w1", "nonce")
        clock = SystemClock()
        resolver = InputResolver(self.reader, clock, self.folder, self.variables, self.transfers.result_file if self.transfers else None)
        self.stop = asyncio.Event()
        self.agent = Agent(self.plan, self.log, clock, ledger, self.launcher, resolver, Usage, self.stop, self.transfers)
        self.agents.append(asyncio.ensure_future(self.agent.run()))
        await asyncio.sleep(0)
        return self.agent

    async def registered(self, incarnation: int = 1) -> WorkerRegistered:
        """Wait until the worker is registered under this incarnation; gives the registration."""
        found: list[WorkerRegistered] = []
        await self.until(lambda events: found.extend(e for e in events if isinstance(e, WorkerRegistered) and e.incarnation == incarnation) or found)
        return found[0]

    @property
    def life(self) -> asyncio.Task[None]:
        return self.agents[-1]

    async def crash(self) -> None:
        """As kill -9 would: nothing more is written or sent, the hosts die unheard, the ledger stays as it is."""
        self.store = MemoryStore(self.store.content)
        for host in self.launcher.hosts:
            host.alive = False
        self.agent.pool.close = _nothing  # type: ignore[method-assign]
        self.log.dead = self.reader.dead = True
        self.life.cancel()
        self.agent.runs.cancel()
        await asyncio.wait([self.life])
        self.log, self.reader = FaultyLog(self.connect()), FaultyLog(self.connect())

    async def close(self) -> None:
        if self.agents and not self.life.done():
            self.agent.pool.close = _nothing  # type: ignore[method-assign]
            self.life.cancel()
            await asyncio.wait([self.life])

    # --- what the scheduler does ---

    async def send(self, *answers: Answer) -> None:
        """Commit dispatches, stops and recalls, as the scheduler would."""
        if self._lease is None:
            self._lease = await self.truth.lease("scheduler", "test")
            self._commit_no = self._lease.commit_no
        await self.truth.commit("scheduler", self._lease.epoch, self._commit_no, "0-0", list(answers))
        self._commit_no += 1

    async def entry_of(self, task: str, attempt: int = 1) -> str:
        """Id of the task's dispatch, in the log and in the inbox."""
        for entry in await self.truth.read("0-0", count=1000):
            event = codec.decode(entry.type, entry.payload)
            if isinstance(event, TaskDispatched) and (event.task, event.attempt) == (task, attempt):
                return entry.id
        raise AssertionError(f"{task} was not dispatched")

    # --- the log ---

    async def all_events(self) -> list[Event]:
        events: list[Event] = []
        after = "0-0"
        await self.truth.run_id()  # so that a restart of the server is no news to it
        while entries := await self.truth.read(after):
            after = entries[-1].id
            events += [event for entry in entries if isinstance(event := codec.decode(entry.type, entry.payload), Event)]
        return events

    async def events(self, *types: str) -> list[Any]:
        return [event for event in await self.all_events() if codec.type_of(event) in types]

    async def outcomes(self) -> list[tuple[str, str]]:
        """(task, type) of the reports, in log order."""
        names = {"AttemptStarted", "AttemptSucceeded", "AttemptFailed", "AttemptStopped"}
        return [(event.task, codec.type_of(event)) for event in await self.all_events() if codec.type_of(event) in names]  # type: ignore[attr-defined]

    async def until(self, seen: Callable[[list[Any]], Any], seconds: float = 10) -> list[Any]:
        """Wait until the log's events satisfy `seen`."""
        async with asyncio.timeout(seconds):
            while not seen(events := await self.all_events()):
                if self.agents and self.life.done() and not self.life.cancelled() and self.life.exception():
                    self.life.result()
                await asyncio.sleep(0.002)
        return events

    async def until_types(self, *types: str) -> None:
        """Wait until the log holds an event of each type, as often as it is named."""
        await self.until(lambda events: all(sum(codec.type_of(e) == one for e in events) >= types.count(one) for one in types))

    async def until_true(self, condition: Callable[[], Any], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.002)


async def _nothing() -> None:
    return


def dispatch(
    task: str, *, incarnation: int = 1, attempt: int = 1, light: bool = True, devices: tuple[int, ...] = (), spec: dict[str, Any] | None = None,
    joins: bool = False, **extra: Any,
) -> Answer:  # fmt: skip
    """What the scheduler commits to send a task."""
    options = {"task_type": "echo" if light else "sft", "spec": Raw(msgspec.json.encode(spec or {"taskType": "echo"})), "light": light}
    event = TaskDispatched(task=task, attempt=attempt, worker="w1", incarnation=incarnation, devices=devices, joins=joins)
    return Answer(event, ("w1", incarnation), msgspec.json.encode(Dispatch(**{**options, **extra})))


def stop(task: str, *, incarnation: int = 1, attempt: int = 1, grace_sec: float = 0.1) -> Answer:
    event = AttemptStopRequested(task=task, attempt=attempt, worker="w1", incarnation=incarnation, reason="cancelled", grace_sec=grace_sec)
    return Answer(event, ("w1", incarnation))
