"""The attempts that run: they go to a host, and what the host says of them goes into the outbox.

An attempt leaves with its last report. It survives its incarnation: after a new registration its reports carry the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from mloc.core.events import Error, HeldAttempt
from mloc.core.host_frames import (
    NOT_LIGHT,
    CheckpointDone,
    EngineLoaded,
    Failed,
    RowsDone,
    RunTask,
    Stopped,
    StopTask,
    Succeeded,
    Telemetry,
)
from mloc.services.clock import Clock
from mloc.services.transfers.transfer_errors import TransferError
from mloc.services.transfers.transfers import Transfers
from mloc.services.worker.attempt import Attempt, AttemptKey
from mloc.services.worker.attempt_transfers import AttemptTransfers
from mloc.services.worker.device_table import DeviceTable
from mloc.services.worker.hosts.exit_reasons import explain_exit
from mloc.services.worker.hosts.host import Host
from mloc.services.worker.hosts.host_link import HostExit
from mloc.services.worker.hosts.host_pool import DeviceInUse, HostFailed, HostNeed, HostPool
from mloc.services.worker.input_resolution import InputResolver, ResolutionError
from mloc.services.worker.light_runs import LightRuns, hand_over
from mloc.services.worker.reports import Reports
from mloc.services.worker.scrubbing import scrub_text, secrets_worth_hiding
from mloc.services.worker.telemetry import TelemetryBuffer

SETTLE_SEC = 30.0  # for what an attempt had to reach the API when it ended without a result

_log = structlog.get_logger("worker")


class Runs:
    """`pool` is set by the agent, which makes the two for each other; `on_room` is called when something may start that could not before."""

    pool: HostPool

    def __init__(
        self, reports: Reports, table: DeviceTable, resolver: InputResolver, telemetry: TelemetryBuffer, clock: Clock,
        family_of: Callable[[str], str], transfers: Transfers | None = None,
    ) -> None:  # fmt: skip
        """Without `transfers` nothing is fetched (a simulation)."""
        self._reports = reports
        self._table = table
        self._resolver = resolver
        self._telemetry = telemetry
        self._clock = clock
        self._family_of = family_of
        self._transfers = AttemptTransfers(transfers, reports, telemetry)
        self._light = LightRuns(table, lambda attempt: self._spawn(self._prepare(attempt)))
        self._running: dict[AttemptKey, Attempt] = {}
        self._host_of: dict[AttemptKey, Host] = {}  # of those that are not light
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_room: Callable[[], None] = lambda: None
        self.none_left = asyncio.Event()
        self.none_left.set()

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, key: AttemptKey) -> bool:
        return key in self._running

    def held(self) -> list[HeldAttempt]:
        return [attempt.held() for attempt in self._running.values()]

    def light_room(self) -> int:
        """How many more light attempts may be started."""
        return self._light.room(self.pool.light)

    def begin(self, attempts: Sequence[Attempt]) -> None:
        """Run attempts whose start is in the log."""
        plain: list[Attempt] = []
        now = self._clock.monotonic()
        for attempt in attempts:
            attempt.started_at = now
            self._running[attempt.key] = attempt
            if attempt.dispatch.light:
                self._light.begin()
                if self._resolver.is_plain(attempt.dispatch):
                    plain.append(attempt)
                    continue
            attempt.stage = "preparing"
            self._spawn(self._prepare(attempt))
        if self._running:
            self.none_left.clear()
        if plain:
            self._light.run(self.pool.light, [(attempt, self._resolver.plain(attempt)) for attempt in plain])

    def stop(self, key: AttemptKey, reason: str, grace_sec: float) -> None:
        """Ask a running attempt to stop cleanly; its host is killed after the grace. Its last report answers the stop."""
        attempt = self._running.get(key)
        if attempt is None or attempt.stop_reason is not None:
            return
        attempt.stop_reason = reason or "stopped"
        if self._light.drop(attempt):
            self._stopped(None, attempt, attempt.stop_reason)
        elif attempt.stage == "running":
            self._ask_to_stop(attempt, grace_sec)
        else:
            self._transfers.break_off(key)

    def stop_all(self, reason: str, grace_sec: float) -> None:
        for key in list(self._running):
            self.stop(key, reason, grace_sec)

    def announce_engines(self) -> None:
        """After a new registration: the hosts and their warm engines are still there."""
        for host in self.pool.all:
            for frame in (*host.asleep.values(), *host.engines.values()):
                self.engine(host, frame)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    # --- what the hosts tell ---

    def frames(self, host: Host, frames: list[Any]) -> None:
        for frame in frames:
            if type(frame) is Telemetry:
                self._telemetry_of(host, frame)
                continue
            attempt = host.attempts.get((frame.task, frame.attempt))
            if attempt is None:
                continue  # it was given up, or the host speaks of what it was never given
            match frame:
                case Succeeded() if self._transfers.may_deliver(attempt, frame):
                    self._done_in(host, attempt)
                    self._spawn(self._deliver(attempt, frame))
                case Succeeded():
                    self._reports.succeeded(attempt, frame)
                    self._let_go(host, attempt)
                case Failed(error=error) if error.type == NOT_LIGHT and host.plan.light and attempt.stop_reason is None:
                    self._left(host, attempt)
                    self._light.make_heavy(self.pool.light, attempt)
                case Failed(error=error, duration_ms=duration_ms):
                    self._failed(host, attempt, error, duration_ms)
                case Stopped(reason=reason):
                    self._stopped(host, attempt, attempt.stop_reason or reason)
                case RowsDone() | CheckpointDone():
                    self._transfers.progress(attempt, frame)
        self._light.start_heavy()
        self.on_room()

    def line(self, host: Host, text: str) -> None:
        """What a host prints is its attempt's; of several that share an engine it is nobody's, since each may be another person's."""
        attempt = next(iter(host.attempts.values()), None)
        if attempt is None or attempt.dispatch.light or len(host.attempts) > 1:
            _log.debug("a host says", pid=host.pid, line=scrub_text(text, _secrets_in(host)))
        else:
            self._telemetry.line(attempt.key, scrub_text(text, attempt.secrets))

    def engine(self, host: Host, frame: EngineLoaded) -> None:
        self._reports.engine(frame, host.plan.devices)

    def host_ended(self, host: Host, exit: HostExit) -> None:
        """Its attempts fail, and can be tried again. Of a batch in the light host nobody knows which one did it."""
        left = list(host.attempts.values())
        tail = scrub_text("\n".join(host.tail), _secrets_in(host))
        host.attempts.clear()
        if left and not host.killed:
            _log.warning("a host ended", pid=host.pid, exit_code=exit.code, signal=exit.signal, attempts=len(left))
        suspected = host.plan.light and (host.killed or (host.ready and len(left) > 1))
        for attempt in left:
            if attempt.stop_reason is not None:
                self._stopped(host, attempt, attempt.stop_reason)
            elif suspected:
                self._light.suspect(attempt)
            else:
                message = explain_exit(exit, scrub_text(tail, attempt.secrets))
                self._failed(host, attempt, Error("HostDied", message), 0.0)
        self._light.try_next_suspect(self.pool.light)
        self._light.start_heavy()
        self.on_room()

    # --- into a host ---

    async def _prepare(self, attempt: Attempt) -> None:
        """Resolve references and inputs, find a host, run. Ends in a running attempt or its last report."""
        try:
            frame = await self._resolver.resolve(attempt)
            if attempt.dispatch.light:
                if attempt.stop_reason is None:
                    return self._light.run(self.pool.light, [(attempt, frame)])
                return self._stopped(None, attempt, attempt.stop_reason)
            if attempt.stop_reason is None:
                frame = await self._transfers.fetch(attempt, frame)
            if attempt.stop_reason is None:
                host = await self.pool.reserve(self._need_of(attempt))
                if attempt.stop_reason is None:
                    return self._run(host, attempt, frame)
                self.pool.give_back(host)
            self._stopped(None, attempt, attempt.stop_reason)
        except (ResolutionError, TransferError) as error:
            self._failed(None, attempt, Error("InputError", str(error), error.retryable), 0.0)
        except HostFailed as error:
            self._failed(None, attempt, Error("HostFailed", str(error)), 0.0)
        except DeviceInUse as error:  # it goes back: what kept it from its place was not there when it was sent
            self._stopped(None, attempt, attempt.stop_reason or str(error))
        except Exception as error:  # a mistake of ours must not leave the attempt running for ever
            _log.exception("an attempt cannot be prepared", task=attempt.key[0], attempt=attempt.key[1])
            self._failed(None, attempt, Error(type(error).__name__, str(error)), 0.0)

    def _need_of(self, attempt: Attempt) -> HostNeed:
        sent = attempt.dispatch
        return HostNeed(self._family_of(sent.task_type), sent.engine, attempt.devices, alone=bool(attempt.devices) and not sent.device_memory)

    def _done_in(self, host: Host, attempt: Attempt) -> None:
        """The host is done with the attempt, which holds its devices until its last report."""
        attempt.stage = "delivering"
        self._left(host, attempt)
        self._host_of.pop(attempt.key, None)
        self.pool.give_back(host)

    async def _deliver(self, attempt: Attempt, frame: Succeeded) -> None:
        """The success is told when others can read its files."""
        try:
            ended = await self._transfers.deliver(attempt, frame)
            if ended is None:
                return self._stopped(None, attempt, attempt.stop_reason)
            self._reports.succeeded(attempt, ended)
            self._let_go(None, attempt)
        except TransferError as error:
            self._failed(None, attempt, Error("DeliveryFailed", str(error), error.retryable), frame.duration_ms)
        except Exception as error:  # a mistake of ours must not leave the attempt running for ever
            _log.exception("a result cannot be delivered", task=attempt.key[0], attempt=attempt.key[1])
            self._failed(None, attempt, Error(type(error).__name__, str(error)), frame.duration_ms)

    def _run(self, host: Host, attempt: Attempt, frame: RunTask) -> None:
        """Raises ResolutionError where the inputs are too large to be handed over."""
        try:
            hand_over(host, [frame])
        except ResolutionError:
            self.pool.give_back(host)
            raise
        attempt.stage = "running"
        host.attempts[attempt.key] = attempt
        self._host_of[attempt.key] = host

    def _ask_to_stop(self, attempt: Attempt, grace_sec: float) -> None:
        host = self.pool.light if attempt.dispatch.light else self._host_of[attempt.key]
        host.send([StopTask(*attempt.key, attempt.stop_reason or "", grace_sec)])
        self._spawn(self._kill_after(host, attempt, grace_sec))

    async def _kill_after(self, host: Host, attempt: Attempt, grace_sec: float) -> None:
        await self._clock.sleep(grace_sec)
        if attempt.stage == "running" and attempt.key in host.attempts:
            attempt.overdue = True
            if not host.plan.light and not host.must_go:
                _log.warning("an attempt did not stop within its grace; others share its host", task=attempt.key[0], attempt=attempt.key[1])
                return
            _log.warning("an attempt did not stop within its grace; its host is killed", task=attempt.key[0], attempt=attempt.key[1])
            host.kill()

    def _left(self, host: Host, attempt: Attempt) -> None:
        """The host is done with the attempt. Where only such are left in it that did not stop in time, it is killed now."""
        host.attempts.pop(attempt.key, None)
        if not host.plan.light and host.must_go and not host.killed:
            host.kill()

    # --- the end of an attempt ---

    def _failed(self, host: Host | None, attempt: Attempt, error: Error, duration_ms: float) -> None:
        if attempt.stop_reason is not None:  # what it says after it was asked to stop is how it stopped
            return self._stopped(host, attempt, attempt.stop_reason)
        duration_ms = duration_ms or (self._clock.monotonic() - attempt.started_at) * 1000
        if attempt.uploads is not None:
            return self._after_uploads(host, attempt, lambda: self._failed(None, attempt, error, duration_ms))
        self._reports.failed(attempt, error, duration_ms)
        self._let_go(host, attempt)

    def _stopped(self, host: Host | None, attempt: Attempt, reason: str | None) -> None:
        if attempt.uploads is not None:
            return self._after_uploads(host, attempt, lambda: self._stopped(None, attempt, reason))
        self._reports.stopped(attempt, reason or "")
        self._let_go(host, attempt)

    def _after_uploads(self, host: Host | None, attempt: Attempt, end: Callable[[], None]) -> None:
        """A later attempt, perhaps elsewhere, goes on from what this one has so far: that is uploaded before its end is told."""
        if host is not None:
            self._done_in(host, attempt)
        attempt.stage = "delivering"
        uploads, attempt.uploads = attempt.uploads, None

        async def settle() -> None:
            assert uploads is not None
            try:
                await uploads.settle(SETTLE_SEC)
            finally:
                uploads.close()
            end()

        self._spawn(settle())

    def _let_go(self, host: Host | None, attempt: Attempt) -> None:
        """Its last report is in the outbox: what it held is free. `host` is None where it had none yet."""
        attempt.stage = "ended"
        del self._running[attempt.key]
        self._transfers.release(attempt)
        if host is not None:
            self._left(host, attempt)
        if attempt.dispatch.light:
            self._light.end(self.pool.light)
        else:
            self._host_of.pop(attempt.key, None)
            self._table.release(attempt)
            if host is not None:
                self.pool.give_back(host)
        if not self._running:
            self.none_left.set()
        if host is None:
            self._light.start_heavy()
            self.on_room()

    def _telemetry_of(self, host: Host, frame: Telemetry) -> None:
        attempt = host.attempts.get((frame.task, frame.attempt))
        if attempt is not None:
            self._telemetry.points(frame, attempt.secrets)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _secrets_in(host: Host) -> tuple[str, ...]:
    """Of all that share it. A light host's output is shown to nobody."""
    return () if host.plan.light else secrets_worth_hiding(secret for attempt in host.attempts.values() for secret in attempt.secrets)
