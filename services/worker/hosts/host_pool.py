"""The worker's host processes: the light host, which is always there, and the others, which stay warm for the next task of their kind.

A host that is not light has one task at a time and one family of task types; it keeps its devices for life. Tasks whose engine serves
several at a time are the exception: they join the host that has it, so that they share its batch. Room for another host is made by the
idle one that was used least recently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

import structlog
from msgspec import Struct
from msgspec.structs import replace

from mloc.core.host_frames import EngineLoaded, HostReady, Quit
from mloc.core.needs.engine_key import is_shared
from mloc.services.clock import Clock
from mloc.services.worker.hosts.host import Host
from mloc.services.worker.hosts.host_link import HostExit, HostLauncher, HostPlan
from mloc.services.worker.ledger import Ledger
from mloc.services.worker.waiting import wait_at_most

QUIT_GRACE_SEC = 3.0
FIRST_PAUSE_SEC, LONGEST_PAUSE_SEC = 0.1, 5.0

_log = structlog.get_logger("worker")


class HostNeed(Struct, frozen=True):
    """What a task that is not light needs of a host. Hosts of one `family` have the same libraries loaded; `engine` is preferred. `alone`: no
    other host may have a device of its."""

    family: str
    engine: str = ""
    devices: tuple[int, ...] = ()
    alone: bool = False


class HostFailed(Exception):
    """A host could not be started; the message says why."""


class DeviceInUse(Exception):
    """A device has a host that the task cannot join, and no room for another."""


class PoolWatch(Protocol):
    """Who uses the hosts. All calls are synchronous."""

    def frames(self, host: Host, frames: list[Any]) -> None: ...
    def line(self, host: Host, text: str) -> None: ...
    def engine(self, host: Host, frame: EngineLoaded) -> None: ...
    def host_ended(self, host: Host, exit: HostExit) -> None: ...


class HostPool:
    def __init__(self, launcher: HostLauncher, ledger: Ledger, clock: Clock, watch: PoolWatch, *, slots: int, threads: int) -> None:
        """`slots` bounds the hosts without a device, `threads` is what each of them may use."""
        self.watch = watch
        self._launcher = launcher
        self._ledger = ledger
        self._clock = clock
        self._slots = slots
        self._threads = threads
        self._hosts: list[Host] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause = FIRST_PAUSE_SEC
        self._closing = False
        self.light = self._new_host(HostPlan(light=True), "light")

    @property
    def all(self) -> list[Host]:
        return [*self._hosts, self.light]

    def start_light(self) -> None:
        """Start the light host now, so that the first light task need not wait for it."""
        self._spawn(self._launch_light(self.light, 0.0))

    async def reserve(self, need: HostNeed) -> Host:
        """A host for one task: one that shares its engine, a warm one, else a new one, for which idle ones make room.

        Raises HostFailed, and DeviceInUse, which starts nothing."""
        while True:
            if (sharing := self._sharing(need)) is not None:
                self._hold(sharing, need)
                await sharing.started.wait()
                if not sharing.gone.is_set() and not sharing.killed:
                    return sharing
                self.give_back(sharing)
                await sharing.gone.wait()
                continue
            if (warm := self._warm(need)) is not None:
                self._hold(warm, need)
                return warm
            in_the_way = self._in_the_way(need)
            if need.alone and any(host not in in_the_way for host in self._on_devices(need)):
                raise DeviceInUse(f"a host on device {', '.join(map(str, need.devices))} has attempts, one of them to end, that it cannot join")
            if not in_the_way:
                break
            for host in in_the_way:
                if not host.killed:
                    host.kill()
            await asyncio.wait([asyncio.ensure_future(host.gone.wait()) for host in in_the_way])
        host = self._new_host(HostPlan(light=False, devices=need.devices, threads=self._threads), need.family)
        self._hold(host, need)
        self._hosts.append(host)
        try:
            await self._launch(host)
        finally:
            host.started.set()
        return host

    def give_back(self, host: Host) -> None:
        """A task of the host is over; it stays warm."""
        host.reserved -= 1
        host.last_used = self._clock.monotonic()

    async def close(self, grace_sec: float = QUIT_GRACE_SEC) -> None:
        """End all hosts: those that do not leave within the grace are killed."""
        self._closing = True
        hosts = [host for host in self.all if host.pid]
        for host in hosts:
            host.send([Quit()])
        deadline = self._clock.monotonic() + grace_sec
        for host in hosts:
            if not await wait_at_most(self._clock, host.gone, deadline - self._clock.monotonic()):
                host.kill()
        for host in hosts:
            await wait_at_most(self._clock, host.gone, grace_sec)
        for task in self._tasks:
            task.cancel()

    # --- what the hosts tell ---

    def line_of(self, host: Host, text: str) -> None:
        self.watch.line(host, text)

    def frames_of(self, host: Host, frames: list[Any]) -> None:
        rest = frames
        if any(type(frame) in (HostReady, EngineLoaded) for frame in frames):
            rest = [frame for frame in frames if not self._note(host, frame)]
        if rest:
            self.watch.frames(host, rest)

    def ended(self, host: Host, exit: HostExit) -> None:
        self._spawn(self._ledger_gone(host.pid))
        host.gone.set()
        for engine in (*host.engines, *host.asleep):
            self._tell_of_engine(host, EngineLoaded(engine, 0.0, loaded=False))
        host.engines.clear()
        host.asleep.clear()
        if host in self._hosts:
            self._hosts.remove(host)
        if host is self.light and not self._closing:
            self.light = self._new_host(HostPlan(light=True), "light")
            self._pause = FIRST_PAUSE_SEC if host.ready else min(self._pause * 2, LONGEST_PAUSE_SEC)
            self._spawn(self._launch_light(self.light, 0.0 if host.ready else self._pause))
        self.watch.host_ended(host, exit)

    def _note(self, host: Host, frame: Any) -> bool:
        match frame:
            case HostReady():
                host.ready = True
            case EngineLoaded(engine=engine):
                host.engines.pop(engine, None)
                host.asleep.pop(engine, None)
                if frame.loaded:
                    host.engines[engine] = frame
                elif frame.asleep:
                    host.asleep[engine] = frame
                self._tell_of_engine(host, frame)
            case _:
                return False
        return True

    def _tell_of_engine(self, host: Host, frame: EngineLoaded) -> None:
        """The worker has an engine as long as one of its hosts has it, and it takes several tasks where it does so in each."""
        awake = [other for other in self._hosts if other is not host and frame.engine in other.engines]
        takes_several = all(other.engines[frame.engine].takes_several for other in awake)
        if frame.loaded:
            self.watch.engine(host, replace(frame, takes_several=frame.takes_several and takes_several))
        elif awake:
            self.watch.engine(awake[0], EngineLoaded(frame.engine, 0.0, takes_several=takes_several))
        else:
            self.watch.engine(host, frame)

    # --- choosing and starting ---

    def _hold(self, host: Host, need: HostNeed) -> None:
        host.reserved += 1
        host.shares = need.engine if is_shared(need.engine) else ""

    def _sharing(self, need: HostNeed) -> Host | None:
        if not is_shared(need.engine):
            return None
        fitting = (host for host in self._hosts if host.family == need.family and host.plan.devices == need.devices)
        return next((host for host in fitting if host.takes(need.engine, alone=need.alone)), None)

    def _warm(self, need: HostNeed) -> Host | None:
        idle = [host for host in self._hosts if host.idle and host.family == need.family and host.plan.devices == need.devices]
        return max(idle, key=lambda host: (need.engine in host.engines, need.engine in host.asleep, host.last_used), default=None)

    def _in_the_way(self, need: HostNeed) -> list[Host]:
        """Hosts to wait for: idle ones that leave for this task, and killed ones that are not gone yet."""
        if need.devices:
            return [host for host in self._on_devices(need) if host.idle or host.killed]
        without = [host for host in self._hosts if not host.plan.devices]
        if len(without) < self._slots:
            return []
        if leaving := [host for host in without if host.killed]:
            return leaving
        idle = [host for host in without if host.idle]
        return [min(idle, key=lambda host: host.last_used)] if idle else []

    def _on_devices(self, need: HostNeed) -> list[Host]:
        return [host for host in self._hosts if not set(need.devices).isdisjoint(host.plan.devices)]

    def _new_host(self, plan: HostPlan, family: str) -> Host:
        host = Host(plan, family, self)
        host.last_used = self._clock.monotonic()
        return host

    async def _launch(self, host: Host) -> None:
        try:
            link = await self._launcher.launch(host.plan, host)
        except OSError as error:
            self._drop(host)
            raise HostFailed(f"a host process cannot be started: {error}") from error
        try:
            await self._ledger.host_started(link.record)
        except OSError as error:
            link.kill()
            self._drop(host)
            raise HostFailed(f"the worker's ledger cannot be written, so no host may start: {error}") from error
        if host.gone.is_set():
            await self._ledger_gone(link.record.pid)
            raise HostFailed("a host process ended as soon as it was started; its last lines: " + " | ".join(host.tail))
        host.go(link)
        if host.killed:
            link.kill()

    def _drop(self, host: Host) -> None:
        host.gone.set()
        if host in self._hosts:
            self._hosts.remove(host)

    async def _launch_light(self, host: Host, pause: float) -> None:
        while host is self.light and not self._closing:
            if pause:
                await self._clock.sleep(pause)
            try:
                return await self._launch(host)
            except HostFailed as error:
                host.gone.clear()
                pause = self._pause = min(self._pause * 2, LONGEST_PAUSE_SEC)
                _log.error("the host for light tasks does not start; trying again", error=str(error), pause_sec=pause)

    async def _ledger_gone(self, pid: int) -> None:
        try:
            await self._ledger.host_gone(pid)
        except OSError as error:
            _log.error("the ledger cannot be written", error=str(error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
