"""Reports on their way to the log: numbered in each incarnation, sent in order and in batches, repeated until they are acknowledged.

They outlive their incarnation: what was not acknowledged is sent with its own numbers, before anything newer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import structlog
from msgspec import Raw

from mloc.core import codec
from mloc.core.events import AttemptReport, AttemptSucceeded, Event, HeldAttempt
from mloc.services.clock import Clock
from mloc.services.log.event_log import MAX_BATCH, EventLog, LogUnavailable, Report
from mloc.services.worker.ledger import Ledger, ReportKept
from mloc.services.worker.telemetry import TelemetryBuffer

MAX_BATCH_BYTES = 1024 * 1024
FIRST_PAUSE_SEC, LONGEST_PAUSE_SEC = 0.02, 1.0

_log = structlog.get_logger("worker")


class Outgoing(NamedTuple):
    """One report in the queue. `held` is set for an attempt's last one; `precious` ones are in the ledger before they are sent, and synced
    to disk unless making them again is `cheap`."""

    incarnation: int
    seq: int
    report: Report
    held: HeldAttempt | None
    precious: bool
    cheap: bool = False


class Outbox:
    def __init__(
        self, worker: str, ledger: Ledger, on_acknowledged: Callable[[list[str]], None], telemetry: TelemetryBuffer | None = None
    ) -> None:
        """`on_acknowledged` is told the inbox entries that the log has removed. `telemetry` of an attempt goes before its last report."""
        self.worker = worker
        self._ledger = ledger
        self._on_acknowledged = on_acknowledged
        self._telemetry = telemetry
        self._queue: deque[Outgoing] = deque()
        self._wake = asyncio.Event()
        self.empty = asyncio.Event()
        self.empty.set()
        self.incarnation = 0
        self.next_seq = 1
        for kept in sorted(ledger.reports.values(), key=lambda kept: (kept.incarnation, kept.seq)):
            event = codec.decode(kept.type, kept.event)
            if isinstance(event, Event):
                self._append(Outgoing(kept.incarnation, kept.seq, Report(event), kept.held, False))

    def begin(self, incarnation: int) -> None:
        """Number from 1 again, under a new incarnation."""
        self.incarnation, self.next_seq = incarnation, 1

    def put(self, event: Event, entry_id: str = "", *, held: HeldAttempt | None = None, precious: bool = False, cheap: bool = False) -> None:
        """Queue a report; an AttemptReport carries `next_seq`. `held` says that it is its attempt's last one."""
        assert not isinstance(event, AttemptReport) or (event.seq, event.incarnation) == (self.next_seq, self.incarnation)
        self._append(Outgoing(self.incarnation, self.next_seq, Report(event, entry_id), held, precious, cheap))
        self.next_seq += 1

    def unacknowledged(self) -> list[HeldAttempt]:
        """Attempts that ended and whose last report is not acknowledged: a registration lists them, and they hold no device."""
        return [HeldAttempt(held.task, held.attempt, (), held.light) for held in (out.held for out in self._queue) if held is not None]

    async def send_forever(self, log: EventLog, clock: Clock) -> None:
        """Raises ServerChanged; cancelled and called again it goes on with what was not acknowledged."""
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            batch = list(_batch(self._queue))
            await self._keep(batch)
            if self._telemetry is not None:
                await self._telemetry.flush_of(log, [out.held.task for out in batch if out.held is not None])
            await self._send(log, clock, batch)
            await self._settle(batch)

    def _append(self, out: Outgoing) -> None:
        self._queue.append(out)
        self._wake.set()
        self.empty.clear()

    async def _keep(self, batch: list[Outgoing]) -> None:
        kept = [
            ReportKept(out.incarnation, out.seq, codec.type_of(out.report.event), Raw(codec.encode(out.report.event)), out.held)
            for out in batch
            if out.precious and (out.incarnation, out.seq) not in self._ledger.reports
        ]
        if kept:
            try:
                await self._ledger.keep(kept, sync=any(out.precious and not out.cheap for out in batch))
            except OSError as error:
                _log.error("the ledger cannot be written: a crash of this worker now would lose results", error=str(error))

    async def _send(self, log: EventLog, clock: Clock, batch: list[Outgoing]) -> None:
        pause = FIRST_PAUSE_SEC
        while True:
            try:
                await log.report(self.worker, batch[0].incarnation, batch[0].seq, [out.report for out in batch])
                return
            except LogUnavailable:
                await clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SEC)

    async def _settle(self, batch: list[Outgoing]) -> None:
        for _ in batch:
            self._queue.popleft()
        self._on_acknowledged([out.report.entry_id for out in batch if out.report.entry_id])
        if not self._queue:
            self.empty.set()
        try:
            await self._ledger.acknowledge(batch[-1].incarnation, batch[-1].seq)
        except OSError as error:
            _log.error("the ledger cannot be written", error=str(error))


def _batch(queue: deque[Outgoing]) -> Iterator[Outgoing]:
    """The longest head of the queue that one call takes: numbers in a row of one incarnation, within the limits."""
    size, before = 0, None
    for out in islice(queue, MAX_BATCH):
        event = out.report.event
        size += len(event.result) + 300 if type(event) is AttemptSucceeded else 300
        if before is not None and (out.incarnation != before.incarnation or out.seq != before.seq + 1 or size > MAX_BATCH_BYTES):
            return
        before = out
        yield out
