"""The worker: kills what an earlier life left, registers, runs attempts until its incarnation is over, registers anew; drains at the end.

`run(settings)` is the process. `Agent` is the same with log, clock, hosts and ledger handed in, so that the simulation runs it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from msgspec import Struct

from mloc.core.events import Hardware, WorkerRegistered, WorkerRetired
from mloc.services.clock import Clock
from mloc.services.log.event_log import EventLog, IncarnationLost, LogError, LogRefused, LogUnavailable, ServerChanged, WorkerRefused
from mloc.services.transfers.transfers import Transfers
from mloc.services.worker.device_table import DeviceTable
from mloc.services.worker.hardware import Usage
from mloc.services.worker.hosts.host_link import HostLauncher
from mloc.services.worker.hosts.host_pool import HostPool
from mloc.services.worker.input_resolution import InputResolver
from mloc.services.worker.ledger import Ledger
from mloc.services.worker.outbox import Outbox
from mloc.services.worker.reports import Reports
from mloc.services.worker.runs import Runs
from mloc.services.worker.session import Session
from mloc.services.worker.telemetry import TelemetryBuffer
from mloc.services.worker.waiting import SAY_EVERY_SEC, Reminder, wait_at_most

FIRST_PAUSE_SEC, LONGEST_PAUSE_SEC = 0.05, 1.0
REFUSED_PAUSE_SEC = 0.5
FAREWELL_SEC = 10.0  # for the last reports to reach the log

_log = structlog.get_logger("worker")


class WorkerPlan(Struct, frozen=True, kw_only=True):
    """What the worker offers, and its times. `families`: task type → the group of task types that share host processes."""

    hardware: Hardware
    task_types: tuple[str, ...]
    families: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    slots: int = 1
    cost_per_hour: float = 0.0
    lacks: dict[str, str] = {}
    versions: dict[str, str] = {}
    heartbeat_interval_sec: float = 30.0
    heartbeat_ttl_sec: float = 120.0
    drain_sec: float = 30.0  # that running attempts have to end when the worker leaves
    stop_grace_sec: float = 10.0  # that they have after that to stop cleanly


class Agent:
    """One life of a worker process. `stop` asks it to drain and leave."""

    def __init__(
        self, plan: WorkerPlan, log: EventLog, clock: Clock, ledger: Ledger, launcher: HostLauncher, resolver: InputResolver,
        usage: Callable[[], Usage], stop: asyncio.Event, transfers: Transfers | None = None,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._log = log
        self._clock = clock
        self._ledger = ledger
        self._launcher = launcher
        self._usage = usage
        self._stop = stop
        self._session: Session | None = None
        self._table = DeviceTable(plan.slots, plan.hardware.devices)
        self._telemetry = TelemetryBuffer()
        self.worker = ledger.worker
        self.outbox = Outbox(self.worker, ledger, self._forget, self._telemetry)
        family_of = plan.families.get
        self._reports = Reports(self.outbox)
        self.runs = Runs(self._reports, self._table, resolver, self._telemetry, clock, lambda type_: family_of(type_, type_), transfers)
        threads = max(1, int(plan.hardware.cpus // max(1, plan.slots)))
        self.pool = HostPool(launcher, ledger, clock, self.runs, slots=plan.slots, threads=threads)
        self.runs.pool = self.pool

    async def run(self) -> None:
        """Until it is asked to stop and has drained. Raises WorkerRefused where another living worker has this id, and LogRefused where the server
        does not let it in at its start; later, with work in its hands, it waits."""
        await self._kill_orphans()
        self.pool.start_light()
        telemetry = asyncio.ensure_future(self._telemetry.send_forever(self._log, self._clock))
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            life = asyncio.ensure_future(self._live())
            try:
                await asyncio.wait([life, stopped], return_when=asyncio.FIRST_COMPLETED)
                if not life.done():
                    await self._drain(life)
                else:
                    life.result()
            finally:
                life.cancel()
                await asyncio.wait([life])
            await self._telemetry.flush(self._log)
            await self._retire()
        finally:
            telemetry.cancel()
            stopped.cancel()
            self.runs.cancel()
            await self.pool.close()

    # --- its life ---

    async def _kill_orphans(self) -> None:
        """No host outlives its worker: what the ledger still shows is killed before this worker registers."""
        hosts = list(self._ledger.hosts.values())
        await self._launcher.kill_orphans(hosts)
        for host in hosts:
            await self._ledger.host_gone(host.pid)

    async def _live(self) -> None:
        is_new = True
        while True:
            incarnation = await self._register(is_new)
            is_new = False
            self.outbox.begin(incarnation)
            self.runs.announce_engines()
            self._session = Session(
                incarnation, self._log, self._clock, self.outbox, self._reports, self.runs, self._table, self._usage,
                self._plan.heartbeat_interval_sec, self._plan.heartbeat_ttl_sec,
            )  # fmt: skip
            if self._stop.is_set():
                self._session.drain()
            reason = await self._session.run()
            self._session = None
            _log.warning("registering anew", reason=str(reason), running=len(self.runs))

    async def _register(self, is_new: bool) -> int:
        """Under a new incarnation, with the attempts that run and those whose last report is not acknowledged. Raises as `run` does."""
        pause, refused_sec = FIRST_PAUSE_SEC, 0.0
        reminder = Reminder(self._clock, SAY_EVERY_SEC)
        while True:
            try:
                return await self._register_once()
            except WorkerRefused as error:
                if refused_sec > self._plan.heartbeat_ttl_sec + REFUSED_PAUSE_SEC:
                    raise
                if refused_sec == 0.0:
                    _log.warning("the id is taken; waiting in case its holder is dead", worker=self.worker, reason=str(error))
                refused_sec += REFUSED_PAUSE_SEC
                await self._clock.sleep(REFUSED_PAUSE_SEC)
            except (LogUnavailable, ServerChanged, IncarnationLost) as error:
                if is_new and isinstance(error, LogRefused):
                    raise
                lasts = isinstance(error, LogUnavailable) or pause >= LONGEST_PAUSE_SEC / 2  # the others pass by themselves
                if lasts and reminder.due():
                    _log.warning("waiting for the event log, to register there", reason=str(error), waited_sec=reminder.waited_sec)
                await self._clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SEC)

    async def _register_once(self) -> int:
        run_id = await self._log.run_id()
        incarnation = max(self._ledger.incarnation, await self._log.incarnation(self.worker)) + 1
        await self._ledger.begin(incarnation)
        plan, leaving = self._plan, self._stop.is_set()
        event = WorkerRegistered(
            worker=self.worker, incarnation=incarnation, run_id=run_id, hardware=plan.hardware, tags=plan.tags,
            task_types=() if leaving else plan.task_types, slots=0 if leaving else plan.slots, cost_per_hour=plan.cost_per_hour,
            attempts=(*self.runs.held(), *self.outbox.unacknowledged()), versions=plan.versions, lacks=plan.lacks,
            heartbeat_interval_ms=int(plan.heartbeat_interval_sec * 1000),
        )  # fmt: skip
        await self._log.register(event, self._ledger.nonce, int(plan.heartbeat_ttl_sec * 1000))
        if (now_served_by := await self._log.run_id()) != run_id:
            raise ServerChanged(f"the server was started again ({now_served_by}) while this worker registered")
        _log.info("registered", worker=self.worker, incarnation=incarnation, task_types=list(plan.task_types), held=len(event.attempts))
        return incarnation

    def _forget(self, entry_ids: list[str]) -> None:
        if self._session is not None:
            self._session.forget(entry_ids)

    # --- its end ---

    async def _drain(self, life: asyncio.Future[None]) -> None:
        """Take nothing new, give back what waits, let what runs end or stop it. `life` goes on meanwhile, so that reports arrive.

        With something running it registers anew, offering nothing, so that no dispatch is sent to it in vain.
        """
        _log.info("draining", running=len(self.runs), seconds=self._plan.drain_sec)
        if (session := self._session) is not None:
            session.drain()
            await wait_at_most(self._clock, session.none_starting, FAREWELL_SEC)
            if len(self.runs):
                session.leave()
        if not await wait_at_most(self._clock, self.runs.none_left, self._plan.drain_sec):
            self.runs.stop_all("drain", self._plan.stop_grace_sec)
            await wait_at_most(self._clock, self.runs.none_left, self._plan.stop_grace_sec + FAREWELL_SEC)
        if not await wait_at_most(self._clock, self.outbox.empty, FAREWELL_SEC):
            _log.warning("the log does not take the last reports; they are in the ledger for the next start", ended=life.done())

    async def _retire(self) -> None:
        try:
            await self._log.retire(WorkerRetired(worker=self.worker, incarnation=self.outbox.incarnation, reason="stopped"))
        except LogError as error:
            _log.warning("the log does not take the farewell; the worker will be counted as lost", reason=str(error))
