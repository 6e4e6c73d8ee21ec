"""Host processes of the simulated workers: they take time, fail, crash, ignore stops, and outlive a killed worker for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from mloc.core.events import Error
from mloc.core.host_frames import EngineLoaded, Failed, Go, HostReady, RunTask, Stopped, StopTask, Succeeded, WorkerFrame
from mloc.services.worker.hosts.host_link import HostExit, HostPlan, HostWatch
from mloc.services.worker.ledger import HostStarted
from tests.simulation.faults import Life

Violation = Callable[[str], None]


class Machine:
    """What a machine's workers share over their lives: its processes and devices. It asserts what must hold in the world itself."""

    def __init__(self, name: str, violation: Violation) -> None:
        self.name = name
        self.hosts: dict[int, SimulatedHost] = {}
        self.devices: dict[int, dict[tuple[str, int], tuple[int, str]]] = {}  # device → attempts there → (pid, engine that takes several)
        self.ran: set[tuple[str, int]] = set()
        self.violation = violation
        self._last_pid = 0

    def next_pid(self) -> int:
        self._last_pid += 1
        return self._last_pid

    def begin(self, pid: int, frame: RunTask, engine: str, *, light: bool) -> None:
        """A light host has many in hand and runs them one by one; when it dies, those that had not begun go to the next one."""
        if (frame.task, frame.attempt) in self.ran and not light:
            self.violation(f"attempt {frame.attempt} of {frame.task} ran twice on {self.name}")
        self.ran.add((frame.task, frame.attempt))
        for device in frame.devices:
            there = self.devices.setdefault(device, {})
            if any(not engine or (pid, engine) != other for other in there.values()):
                self.violation(f"device {device} of {self.name} has {there}, and {frame.task}#{frame.attempt} begins there in {pid} with {engine}")
            for host in self.hosts.values():
                if host.pid != pid and host.may_go and device in host.plan.devices:
                    self.violation(f"{frame.task}#{frame.attempt} begins on device {device} of {self.name}, which the living host {host.pid} has")
            there[frame.task, frame.attempt] = (pid, engine)

    def free(self, pid: int, key: tuple[str, int] | None = None) -> None:
        for there in self.devices.values():
            for attempt, (holder, _) in list(there.items()):
                if holder == pid and key in (None, attempt):
                    del there[attempt]


class SimulatedHost:
    """One host process; implements HostLink."""

    def __init__(self, machine: Machine, life: Life, plan: HostPlan, watch: HostWatch) -> None:
        self.pid = machine.next_pid()
        self.record = HostStarted(self.pid, f"start-{self.pid}")
        self.unsent_bytes = 0
        self._machine = machine
        self._life = life
        self.plan = plan
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._running: dict[tuple[str, int], RunTask] = {}
        self._gone = False
        self.may_go = False
        self._engine = ""
        machine.hosts[self.pid] = self
        self._later(0.01, lambda: self._tell([HostReady(self.pid)]))

    def send(self, frames: Sequence[WorkerFrame]) -> None:
        for frame in () if self._gone else frames:
            match frame:
                case Go():
                    self.may_go = True
                case RunTask():
                    self._begin(frame)
                case StopTask():
                    self._stop((frame.task, frame.attempt))
                case _:
                    self._later(0.01, self.die)

    def kill(self) -> None:
        self.die(HostExit(signal=9))

    def die(self, exit: HostExit = HostExit()) -> None:  # noqa: B008
        if self._gone:
            return
        self._gone = True
        self._machine.free(self.pid)
        self._machine.hosts.pop(self.pid, None)
        self._loop.call_soon(lambda: self._watch.ended(exit) if self._life.alive else None)

    def _begin(self, frame: RunTask) -> None:
        if not self.may_go and frame.devices:
            self._machine.violation(f"{frame.task} touches a device before the ledger shows its host")
        engine = msgspec.json.decode(frame.spec).get("engine", "")
        self._machine.begin(self.pid, frame, engine, light=self.plan.light)
        if engine and engine != self._engine:
            left, self._engine = self._engine, engine
            gone = [EngineLoaded(left, 0.0, loaded=False)] if left else []
            self._later(0.05, lambda: self._tell([*gone, EngineLoaded(engine, 0.05, takes_several=True)]))
        key = (frame.task, frame.attempt)
        self._running[key] = frame
        random = self._life.random
        seconds = random.uniform(0.0005, 0.003) if self.plan.light else random.choice([0.02, 0.3, 1.5, 4.0]) * random.random()
        self._later(seconds, lambda: self._end(key))

    def _end(self, key: tuple[str, int]) -> None:
        if self._running.pop(key, None) is None:
            return
        dice = self._life.random.random() if self._life.chances.crash or self._life.chances.lost else 0.5
        if dice < 0.03:
            self.die(HostExit(signal=6))
        elif dice < 0.1:
            self._finish(key, Failed(*key, Error("Boom", "it broke", retryable=dice < 0.09)))
        else:
            self._finish(key, Succeeded(*key, b'{"ok":true}', duration_ms=1.0))

    def _stop(self, key: tuple[str, int]) -> None:
        if self._life.chance(0.3 if self._engine else 0.1):
            return  # does not listen: the worker kills it after the grace

        def answer() -> None:
            if self._running.pop(key, None) is not None:
                self._finish(key, Stopped(*key, "asked to"))

        self._later(self._life.random.uniform(0.0, 0.3), answer)

    def _finish(self, key: tuple[str, int], frame: Any) -> None:
        self._machine.free(self.pid, key)
        self._tell([frame])

    def _tell(self, frames: list[Any]) -> None:
        if self._life.alive and not self._gone:
            self._watch.frames(frames)

    def _later(self, seconds: float, act: Callable[[], Any]) -> None:
        def when_due() -> None:
            if not self._gone:
                if self._life.alive and self._loop.time() < self._life.paused_until and act is not self.die:
                    self._later(self._life.paused_until - self._loop.time(), act)
                else:
                    act()

        self._loop.call_later(seconds, when_due)


class SimulatedLauncher:
    """Implements HostLauncher for one life of a worker."""

    def __init__(self, machine: Machine, life: Life) -> None:
        self._machine = machine
        self._life = life

    async def launch(self, plan: HostPlan, watch: HostWatch) -> SimulatedHost:
        await self._life.gate()
        return SimulatedHost(self._machine, self._life, plan, watch)

    async def kill_orphans(self, hosts: Sequence[HostStarted]) -> None:
        await self._life.gate()
        for host in hosts:
            if (found := self._machine.hosts.get(host.pid)) is not None:
                found.kill()


class MemoryLedgerStore:
    """A worker's ledger file; a crash in the middle of an append leaves a torn line."""

    def __init__(self, disk: bytearray, life: Life) -> None:
        self._disk = disk
        self._life = life
        self._appended = 0

    def load(self) -> bytes:
        return bytes(self._disk)

    async def append(self, lines: bytes, *, sync: bool) -> None:
        await self._life.gate()
        if self._life.chance(self._life.chances.crash):
            self._disk += lines[: self._life.random.randrange(len(lines) + 1)]
            self._life.alive = False
            await self._life.gate()
        self._disk += lines
        self._appended += len(lines)

    async def rewrite(self, content: bytes) -> None:
        await self._life.gate()
        self._disk[:] = content
        self._appended = 0

    @property
    def size(self) -> int:
        return self._appended
