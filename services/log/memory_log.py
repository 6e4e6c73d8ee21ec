"""A client of the event log in memory: what the simulation's processes and tests hold in place of a connection.

    server = MemoryServer(now_ms)        # its clock is given: the same calls give the same log
    log = MemoryLog(server, wait)        # `wait(moment, call)` may delay a call or fail it, before and after it takes effect
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from mloc.core import codec, log_ids
from mloc.core.answers import Answer
from mloc.core.events import AttemptStarted, Event, WorkerRegistered, WorkerRetired
from mloc.services.log import limits, refusals
from mloc.services.log.event_log import (
    MAX_BATCH,
    Backlog,
    Entry,
    Fenced,
    Heartbeat,
    InboxEntry,
    Lease,
    LogError,
    LogUnavailable,
    Report,
    Submitted,
    TelemetryPoint,
)
from mloc.services.log.memory_records import Encoded, EncodedAnswer
from mloc.services.log.memory_server import MemoryServer

Moment = Literal["request", "reply"]
Wait = Callable[[Moment, str], Awaitable[None]]

_encode = msgspec.json.Encoder().encode
_decode_heartbeat = msgspec.json.Decoder(Heartbeat).decode
_decode_point = msgspec.json.Decoder(TelemetryPoint).decode


class MemoryLog:
    """One client's view of a MemoryServer; implements EventLog."""

    def __init__(self, server: MemoryServer, wait: Wait | None = None) -> None:
        self._server = server
        self._wait = wait
        self._known_run = 0  # the run that the caller knows of; 0 before the first call

    # --- reading ---
    async def read(self, after: str, count: int = MAX_BATCH, block_ms: int = 0) -> list[Entry]:
        limits.check_position(after)
        first = after == log_ids.START  # nothing to compare with what was read before
        await self._asked("read", goes_on=not first, looks=first)
        entries = self._server.state.read(after, count)
        if not entries and block_ms:
            await self._server.wait_for("events", limits.check_block(block_ms) / 1000)
            entries = self._server.state.read(after, count)
        await self._answered("read")
        return entries

    async def entry(self, id: str) -> Entry | None:
        limits.check_position(id)
        await self._asked("entry")
        found = self._server.state.entry(id)
        await self._answered("entry")
        return found

    async def ends(self) -> tuple[str, str]:
        await self._asked("ends")
        entries = self._server.state.entries
        ends = (entries[0].id, entries[-1].id) if entries else (log_ids.START, log_ids.START)
        await self._answered("ends")
        return ends

    async def run_id(self) -> str:
        await self._asked("run_id", looks=True)
        run_id = self._server.run_id
        await self._answered("run_id")
        return run_id

    async def now_ms(self) -> int:
        await self._asked("now_ms")
        now = self._server.now_ms()
        await self._answered("now_ms")
        return now

    # --- intake and console ---
    async def submit(self, events: Sequence[Event], *, key: str = "", body_sha256: str = "", backlog_limit: int = 0) -> Submitted:
        limits.check_submission(events, key, body_sha256)
        encoded = [_encoded(event) for event in events]
        tasks = limits.submitted_tasks(events)
        return await self._write("submit", self._server.run_id, encoded, tasks, key, body_sha256, backlog_limit)  # type: ignore[no-any-return]

    async def submit_each(self, submissions: Sequence[Sequence[Event]], *, backlog_limit: int = 0) -> list[Submitted]:
        answers = await self.try_each(submissions, backlog_limit=backlog_limit)
        for answer in answers:
            if isinstance(answer, LogError):
                raise answer
        return [answer for answer in answers if isinstance(answer, Submitted)]

    async def try_each(self, submissions: Sequence[Sequence[Event]], *, backlog_limit: int = 0) -> list[Submitted | LogError]:
        answers: list[Submitted | LogError] = []
        for events in submissions:
            key, body_sha256 = limits.submission_key(events)
            try:
                answers.append(await self.submit(events, key=key, body_sha256=body_sha256, backlog_limit=backlog_limit))
            except LogUnavailable:
                raise
            except LogError as error:
                answers.append(error)
        return answers

    # --- a service ---
    async def lease(self, service: str, holder: str) -> Lease:
        return await self._write("lease", self._server.run_id, service, holder, looks=True)  # type: ignore[no-any-return]

    async def renew(self, service: str, epoch: int) -> int:
        return await self._write("renew", service, epoch, limits.LEASE_MS, goes_on=True)  # type: ignore[no-any-return]

    async def release(self, service: str, epoch: int) -> None:
        try:
            await self._write("renew", service, epoch, 0)
        except Fenced:
            return  # it is another's already

    async def commit(
        self, service: str, epoch: int, commit_no: int, position: str, answers: Sequence[Answer], *, backlog: Backlog | None = None
    ) -> str:
        limits.check_commit(position, answers)
        encoded = [_encoded_answer(answer) for answer in answers]
        wakes = [_inbox_name(answer.worker, answer.incarnation) for answer in encoded if answer.worker]
        return await self._write(  # type: ignore[no-any-return]
            "commit", service, epoch, commit_no, position, encoded, backlog, goes_on=True, wakes=wakes
        )

    # --- a worker ---
    async def register(self, event: WorkerRegistered, nonce: str, alive_for_ms: int) -> str:
        limits.check_name("worker's id", event.worker)
        before = self._server.state.workers.get(event.worker)
        wakes = [_inbox_name(event.worker, before.incarnation)] if before else []  # who still reads it learns that it is gone
        return await self._write(  # type: ignore[no-any-return]
            "register", self._server.run_id, event.worker, event.incarnation, nonce, alive_for_ms, _encoded(event), looks=True, wakes=wakes
        )

    async def incarnation(self, worker: str) -> int:
        await self._asked("incarnation")
        known = self._server.state.workers.get(worker)
        await self._answered("incarnation")
        return known.incarnation if known else 0

    async def retire(self, event: WorkerRetired) -> None:
        await self._write("retire", event.worker, event.incarnation, _encoded(event), wakes=[_inbox_name(event.worker, event.incarnation)])

    async def heartbeat(self, beat: Heartbeat, alive_for_ms: int) -> None:
        await self._write("heartbeat", beat.worker, beat.incarnation, alive_for_ms, _encode(beat), goes_on=True)

    async def read_heartbeats(self, after: str, count: int = 1000) -> list[tuple[str, Heartbeat]]:
        await self._asked("read_heartbeats")
        rows = self._server.state.heartbeats.after(after, count)
        await self._answered("read_heartbeats")
        return [(id, _decode_heartbeat(payload)) for id, payload in rows]

    async def read_inbox(
        self, worker: str, incarnation: int, *, pending_after: str | None = None, count: int = MAX_BATCH, block_ms: int = 0
    ) -> list[InboxEntry]:
        server = self._server
        await self._asked("read_inbox", goes_on=True)
        if pending_after is not None:
            entries = server.state.pending(worker, incarnation, pending_after, count)
        else:
            entries = self._deliver(worker, incarnation, count)
            if not entries and block_ms:
                await server.wait_for(_inbox_name(worker, incarnation), limits.check_block(block_ms) / 1000)
                entries = self._deliver(worker, incarnation, count)
        await self._answered("read_inbox")
        return entries

    async def start(self, worker: str, incarnation: int, starts: Sequence[tuple[str, AttemptStarted]]) -> list[bool]:
        limits.check_starts(incarnation, starts)
        encoded = [(entry_id, _encoded(event)) for entry_id, event in starts]
        return await self._write("start", worker, incarnation, encoded, goes_on=True)  # type: ignore[no-any-return]

    async def report(self, worker: str, incarnation: int, first_seq: int, reports: Sequence[Report]) -> None:
        limits.check_reports(incarnation, first_seq, reports)
        encoded = [(_encoded(report.event), report.entry_id) for report in reports]
        await self._write("report", self._server.run_id, worker, incarnation, first_seq, encoded, goes_on=True)

    async def acknowledge(self, worker: str, incarnation: int, entry_ids: Sequence[str]) -> None:
        await self._write("acknowledge", worker, incarnation, list(entry_ids))

    # --- telemetry ---
    async def append_telemetry(self, points: Sequence[tuple[str, TelemetryPoint]]) -> None:
        encoded = [(task, _encode(point)) for task, point in points]
        await self._write("add_telemetry", encoded, wakes=[f"telemetry {task}" for task, _ in encoded])

    async def read_telemetry(self, task: str, after: str, count: int = 500, block_ms: int = 0) -> list[tuple[str, TelemetryPoint]]:
        await self._asked("read_telemetry")
        rows = self._telemetry(task, after, count)
        if not rows and block_ms:
            await self._server.wait_for(f"telemetry {task}", limits.check_block(block_ms) / 1000)
            rows = self._telemetry(task, after, count)
        await self._answered("read_telemetry")
        return [(id, _decode_point(payload)) for id, payload in rows]

    async def telemetry_news(self, after: Mapping[str, str]) -> set[str]:
        await self._asked("telemetry_news")
        news = {task for task, id in after.items() if self._telemetry(task, id, 1)}
        await self._answered("telemetry_news")
        return news

    # --- small shared values ---
    async def set_secret(self, task: str, values: dict[str, str]) -> None:
        await self._write("set_secret", task, _encode(values))

    async def secrets(self, task: str) -> dict[str, str]:
        await self._asked("secrets")
        values = dict(self._server.state.secrets.get(task, {}))
        await self._answered("secrets")
        return values

    async def forget_secret(self, task: str) -> None:
        await self._write("set_secret", task, None)

    async def set_results_mark(self, nonce: str, folder: str = "") -> None:
        await self._write("set_results_mark", nonce, folder)

    async def results_mark(self) -> str:
        await self._asked("results_mark")
        nonce = self._server.state.results_mark
        await self._answered("results_mark")
        return nonce

    async def results_folder(self) -> str:
        await self._asked("results_folder")
        folder = self._server.state.results_folder
        await self._answered("results_folder")
        return folder

    async def close(self) -> None:
        """Nothing to close."""

    # --- private ---
    async def _write(self, script: str, *arguments: Any, goes_on: bool = False, looks: bool = False, wakes: Sequence[str] = ()) -> Any:
        await self._asked(script, goes_on=goes_on, looks=looks)
        result = self._server.write(script, *arguments, wakes=wakes)
        await self._answered(script)
        return result

    async def _asked(self, call: str, *, goes_on: bool = False, looks: bool = False) -> None:
        """A request reaches the server. Calls that `go on` from before are told of a new run until the caller `looks` at it."""
        run = self._server.run
        if self._wait is not None:
            await self._wait("request", call)
        if not self._server.up or self._server.run != run:
            raise LogUnavailable("the event log cannot be reached: the server is down, or the connection broke")
        if self._known_run == 0 or looks:
            self._known_run = run
        elif goes_on and self._known_run != run:
            raise refusals.server_changed(self._server.run_id)

    async def _answered(self, call: str) -> None:
        run = self._server.run
        if self._wait is not None:
            await self._wait("reply", call)
        if not self._server.up or self._server.run != run:
            raise LogUnavailable("the connection to the event log broke before its answer came")

    def _deliver(self, worker: str, incarnation: int, count: int) -> list[InboxEntry]:
        """Asks before it writes, so that idle reads leave no steps in the journal."""
        inbox = self._server.state.inbox(worker, incarnation)
        newest = next(reversed(inbox.entries), log_ids.START)
        if not log_ids.before(inbox.delivered, newest):
            return []
        return self._server.write("deliver", worker, incarnation, count)  # type: ignore[no-any-return]

    def _telemetry(self, task: str, after: str, count: int) -> list[tuple[str, bytes]]:
        stream = self._server.state.telemetry.get(task)
        return stream.after(after, count) if stream else []


def _encoded(event: Event) -> Encoded:
    return codec.type_of(event), codec.encode(event)


def _encoded_answer(answer: Answer) -> EncodedAnswer:
    kind, worker, incarnation = limits.delivery_of(answer)
    return EncodedAnswer(kind, *_encoded(answer.event), worker, incarnation, answer.extra, answer.recall)


def _inbox_name(worker: str, incarnation: int) -> str:
    return f"inbox {worker} {incarnation}"
