"""One incarnation of the worker: it reads its inbox, starts what may run, answers stops, gives signs of life.

It ends when the log says that the incarnation is lost or that the server is another; the attempts that run go on, in `Runs`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from mloc.core.events import AttemptStarted
from mloc.services.clock import Clock
from mloc.services.log.event_log import MAX_BATCH, EventLog, Heartbeat, IncarnationLost, LogUnavailable, ServerChanged
from mloc.services.worker.attempt import Attempt, AttemptKey
from mloc.services.worker.device_table import DeviceTable
from mloc.services.worker.hardware import Usage
from mloc.services.worker.inbox import Inbox, Stop
from mloc.services.worker.outbox import Outbox
from mloc.services.worker.reports import Reports
from mloc.services.worker.runs import Runs
from mloc.services.worker.waiting import SAY_EVERY_SEC, Reminder

SHORTEST_BLOCK_SEC, LONGEST_BLOCK_SEC = 0.1, 1.0  # of a read; after it the pending entries may be due
FIRST_PAUSE_SEC, LONGEST_PAUSE_SEC = 0.02, 1.0
MOST_WAITING = 4096  # attempts that wait to be started; more are left in the inbox

_log = structlog.get_logger("worker")


class Session:
    def __init__(
        self, incarnation: int, log: EventLog, clock: Clock, outbox: Outbox, reports: Reports, runs: Runs, table: DeviceTable,
        usage: Callable[[], Usage], heartbeat_interval_sec: float, heartbeat_ttl_sec: float,
    ) -> None:  # fmt: skip
        self.incarnation = incarnation
        self._log = log
        self._clock = clock
        self._outbox = outbox
        self._reports = reports
        self._runs = runs
        self._table = table
        self._usage = usage
        self._interval = heartbeat_interval_sec
        self._block_ms = int(1000 * min(LONGEST_BLOCK_SEC, max(SHORTEST_BLOCK_SEC, heartbeat_interval_sec)))
        self._ttl_ms = int(heartbeat_ttl_sec * 1000)
        self._inbox = Inbox(incarnation, table)
        self._starting: dict[AttemptKey, Attempt] = {}
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._over = False
        self._draining = False
        self._read_pending = False
        self._left = asyncio.Event()
        self.none_starting = asyncio.Event()
        self.none_starting.set()

    async def run(self) -> str:
        """Until the incarnation is over; gives the reason. Starts in flight are then answered or given up."""
        self._runs.on_room = self._wake.set
        starter = asyncio.ensure_future(self._start_forever())
        left = asyncio.ensure_future(self._left.wait())
        others = [left, asyncio.ensure_future(self._read_forever()), asyncio.ensure_future(self._beat_forever())]
        others.append(asyncio.ensure_future(self._outbox.send_forever(self._log, self._clock)))
        try:
            ended, _ = await asyncio.wait([starter, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._over = True
            self._wake.set()
            for task in others:
                task.cancel()
        await asyncio.wait([starter, *others])
        for task in (starter, *others):  # several may have failed at once; one reason is enough
            if not task.cancelled():
                task.exception()
        for task in ended - {left}:
            if not isinstance(reason := task.exception(), IncarnationLost | ServerChanged):
                raise reason if reason is not None else RuntimeError("a loop of the worker ended by itself")
            return str(reason)
        return "the worker offers nothing any more"

    def drain(self) -> None:
        """Start nothing more: what waits, and what still comes, is given back."""
        self._draining = True
        self._give_back_waiting()

    def leave(self) -> None:
        """End this incarnation, so that the worker registers anew."""
        self._left.set()

    def forget(self, entry_ids: list[str]) -> None:
        """The log has removed these inbox entries."""
        self._inbox.forget(entry_ids)

    # --- reading ---

    async def _read_forever(self) -> None:
        pause = FIRST_PAUSE_SEC
        while True:
            try:
                if self._read_pending:
                    self._read_pending = False
                    await self._take_pending()
                self._take(await self._log.read_inbox(self._outbox.worker, self.incarnation, count=MAX_BATCH, block_ms=self._block_ms))
                await self._acknowledge()
                pause = FIRST_PAUSE_SEC
            except LogUnavailable:
                self._read_pending = True  # a read that the connection died in may have taken entries
                await self._clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SEC)
            while len(self._inbox) > MOST_WAITING:
                self._room.clear()
                await self._room.wait()

    async def _take_pending(self) -> None:
        after: str | None = "0-0"
        while after is not None:
            entries = await self._log.read_inbox(self._outbox.worker, self.incarnation, pending_after=after, count=MAX_BATCH)
            self._take(entries)
            after = entries[-1].id if len(entries) == MAX_BATCH else None

    def _take(self, entries: list[Any]) -> None:
        if not entries:
            return
        for stop in self._inbox.take(entries):
            self._answer(stop)
        if self._draining:
            self._give_back_waiting()
        self._wake.set()

    async def _acknowledge(self) -> None:
        """Entries that need no report; should this fail, they are read and acknowledged again."""
        if entry_ids := self._inbox.to_acknowledge:
            await self._log.acknowledge(self._outbox.worker, self.incarnation, entry_ids)
            del self._inbox.to_acknowledge[: len(entry_ids)]
            self._inbox.forget(entry_ids)

    # --- stops ---

    def _answer(self, stop: Stop) -> None:
        """A running attempt answers with its last report; any other is answered here and never starts."""
        if stop.key in self._runs:
            self._runs.stop(stop.key, stop.reason, stop.grace_sec)
        elif (starting := self._starting.get(stop.key)) is not None:
            starting.stop_reason = stop.reason or "stopped"
        else:
            self._inbox.refuse(stop.key)
            if stop.waiting is not None:
                self._reports.stopped(stop.waiting, stop.reason)
            else:
                self._reports.stopped_unknown(stop.key, stop.reason)

    def _give_back_waiting(self) -> None:
        for attempt in self._inbox.take_all_waiting():
            self._inbox.refuse(attempt.key)
            self._reports.stopped(attempt, "drain")

    # --- starting ---

    async def _start_forever(self) -> None:
        while not self._over:
            await self._wake.wait()
            self._wake.clear()
            while not self._over and not self._draining and (batch := self._inbox.pick(self._runs.light_room())):
                self._room.set()
                self._starting = {attempt.key: attempt for attempt in batch}
                self.none_starting.clear()
                try:
                    self._run_those_that_may(batch, await self._ask_to_start(batch))
                finally:
                    self._starting = {}
                    self.none_starting.set()

    async def _ask_to_start(self, batch: list[Attempt]) -> list[bool]:
        """Repeated until answered; no for all where the session ends before that. Raises IncarnationLost, ServerChanged."""
        worker, incarnation = self._outbox.worker, self.incarnation
        starts = [
            (
                attempt.entry_id,
                AttemptStarted(
                    task=attempt.key[0], attempt=attempt.key[1], worker=worker, incarnation=incarnation, inputs=_inputs_of(attempt),
                    cause=attempt.entry_id,
                ),
            )
            for attempt in batch
        ]  # fmt: skip
        pause = FIRST_PAUSE_SEC
        answered = False
        try:
            while not self._over:
                try:
                    answers = await self._log.start(worker, incarnation, starts)
                    answered = True
                    return answers
                except LogUnavailable:
                    await self._clock.sleep(pause)
                    pause = min(pause * 2, LONGEST_PAUSE_SEC)
            return [False] * len(batch)
        finally:
            if not answered:
                for attempt in batch:
                    self._table.release(attempt)

    def _run_those_that_may(self, batch: list[Attempt], answers: list[bool]) -> None:
        may_run: list[Attempt] = []
        for attempt, may in zip(batch, answers, strict=True):
            if self._draining and may and attempt.stop_reason is None:
                attempt.stop_reason = "drain"
            if attempt.stop_reason is not None:
                self._table.release(attempt)
                self._inbox.refuse(attempt.key)
                self._reports.stopped(attempt, attempt.stop_reason)
            elif may:
                may_run.append(attempt)
            else:
                self._table.release(attempt)
                self._inbox.forget([attempt.entry_id])
        if may_run:
            self._runs.begin(may_run)

    # --- signs of life ---

    async def _beat_forever(self) -> None:
        trouble: Reminder | None = None
        while True:
            usage = self._usage()
            beat = Heartbeat(
                self._outbox.worker, self.incarnation, usage.cpu_percent, usage.memory_bytes, usage.device_percent, usage.device_memory,
                len(self._runs),
            )  # fmt: skip
            try:
                await self._log.heartbeat(beat, self._ttl_ms)
                if trouble is not None:
                    _log.info("the log takes heartbeats again", waited_sec=trouble.waited_sec)
                trouble = None
            except LogUnavailable as error:
                trouble = trouble or Reminder(self._clock, SAY_EVERY_SEC)
                if trouble.due():
                    _log.warning("waiting for the event log, which takes no heartbeat", reason=str(error), waited_sec=trouble.waited_sec)
            self._read_pending = True
            await self._clock.sleep(min(self._interval, LONGEST_PAUSE_SEC) if trouble is not None else self._interval)


def _inputs_of(attempt: Attempt) -> dict[str, str]:
    """The log entries whose results the attempt reads, by name."""
    return {name: reference.result_id for name, reference in attempt.dispatch.inputs.items()} if attempt.dispatch.inputs else {}
