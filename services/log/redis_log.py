"""The event log on Redis or Valkey: one namespace of one server.

    log = RedisLog(url, namespace)
    entries = await log.read(position, block_ms=1000)

A call whose connection breaks raises LogUnavailable at once; the caller repeats it. A call without a connection waits for one, at most
`patience_sec`. What must be atomic is a Lua script; its keys share the slot of `{namespace}`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import redis.exceptions as redis_errors

from mloc.core import codec, log_ids
from mloc.core.answers import Answer
from mloc.core.events import AttemptStarted, Event, LeaderElected, LogStarted, ServerRestarted, WorkerRegistered, WorkerRetired
from mloc.services.log import limits, refusals
from mloc.services.log import redis_replies as replies
from mloc.services.log.event_log import (
    MAX_BATCH,
    AlreadyCommitted,
    Backlog,
    Entry,
    Heartbeat,
    InboxEntry,
    Lease,
    LogError,
    Report,
    Submitted,
    TelemetryPoint,
)
from mloc.services.log.redis_connection import Connections
from mloc.services.log.redis_link import Argument, Command, Link
from mloc.services.log.redis_scripts import SCRIPTS
from mloc.services.log.redis_submissions import Submission, SubmissionAnswer, SubmissionCall, call_of, calls_of

_encode = msgspec.json.Encoder().encode
_decode_heartbeat = msgspec.json.Decoder(Heartbeat).decode
_decode_point = msgspec.json.Decoder(TelemetryPoint).decode
_decode_secrets = msgspec.json.Decoder(dict[str, str]).decode


class RedisLog:
    """Implements EventLog. Close it in the end."""

    def __init__(
        self, url: str, namespace: str = "mloc", *, patience_sec: float = 5.0, reply_timeout_sec: float = 5.0, name: str = "mloc"
    ) -> None:
        limits.check_name("namespace", namespace)
        self._ns = f"{{{namespace}}}"
        self._events = f"{self._ns}:events"
        self._log_id = os.urandom(16).hex()  # of the log, if this client writes its first entry
        self._connections = Connections(
            url, patience_sec=patience_sec, reply_timeout_sec=reply_timeout_sec, name=f"{name}@{socket.gethostname()}".replace(" ", "-")
        )
        self._first_entry = "", b""  # (run, LogStarted), encoded once a run
        self._known_run = ""  # the server's run that the caller knows of

    # --- reading ---
    async def read(self, after: str, count: int = MAX_BATCH, block_ms: int = 0) -> list[Entry]:
        limits.check_position(after)
        first = after == log_ids.START  # nothing to compare with what was read before
        if not block_ms:
            link = await self._link(goes_on=not first, looks=first)
            return replies.entries(replies.of_stream(await self._ask(link, "XREAD", "COUNT", count, "STREAMS", self._events, after)))
        block_ms = limits.check_block(block_ms)
        command = ("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", self._events, after)
        reply = await self._blocking(block_ms, *command, goes_on=not first, looks=first)
        return replies.entries(replies.of_stream(reply))

    async def entry(self, id: str) -> Entry | None:
        limits.check_position(id)
        found = replies.entries(await self._ask(await self._link(), "XRANGE", self._events, id, id))
        return found[0] if found else None

    async def ends(self) -> tuple[str, str]:
        link = await self._link()
        first, last = await self._ask_all(
            link, [("XRANGE", self._events, "-", "+", "COUNT", 1), ("XREVRANGE", self._events, "+", "-", "COUNT", 1)]
        )
        return (first[0][0].decode(), last[0][0].decode()) if first and last else (log_ids.START, log_ids.START)

    async def run_id(self) -> str:
        return (await self._link(looks=True)).run_id

    async def now_ms(self) -> int:
        seconds, microseconds = await self._ask(await self._link(), "TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    # --- intake and console ---
    async def submit(self, events: Sequence[Event], *, key: str = "", body_sha256: str = "", backlog_limit: int = 0) -> Submitted:
        one = Submission.of(events, key, body_sha256)
        link = await self._link()
        return _granted(await self._submit(link, [call_of(one, self._run_and_start(link), backlog_limit)]))[0]

    async def submit_each(self, submissions: Sequence[Sequence[Event]], *, backlog_limit: int = 0) -> list[Submitted]:
        return _granted(await self.try_each(submissions, backlog_limit=backlog_limit))

    async def try_each(self, submissions: Sequence[Sequence[Event]], *, backlog_limit: int = 0) -> list[Submitted | LogError]:
        checked = [Submission.of(events, *limits.submission_key(events)) for events in submissions]
        link = await self._link()
        answers: list[SubmissionAnswer] = []
        for first in range(0, len(checked), limits.SENT_TOGETHER):
            some = checked[first : first + limits.SENT_TOGETHER]
            answers += await self._submit(link, list(calls_of(some, self._run_and_start(link), backlog_limit)))
        return answers

    # --- a service ---
    async def lease(self, service: str, holder: str) -> Lease:
        link = await self._link(looks=True)
        restarted = codec.encode(ServerRestarted(run_id=link.run_id))
        elected = codec.encode(LeaderElected(service=service, epoch=0, holder=holder))
        reply = await self._run(link, "lease", *self._run_and_start(link), service, holder, limits.LEASE_MS, restarted, elected, *limits.GROUPS)
        if reply[0] == b"HELD":
            raise refusals.lease_held(service, reply[1].decode(), int(reply[2]))
        return Lease(int(reply[1]), int(reply[2]), reply[3].decode(), int(reply[4]), link.run_id)

    async def renew(self, service: str, epoch: int) -> int:
        reply = await self._run(await self._link(goes_on=True), "renew", service, epoch, limits.LEASE_MS)
        if reply[0] == b"FENCED":
            raise refusals.fenced(service, epoch)
        return int(reply[1])

    async def release(self, service: str, epoch: int) -> None:
        await self._run(await self._link(), "renew", service, epoch, 0)  # fenced: it is another's already

    async def commit(
        self, service: str, epoch: int, commit_no: int, position: str, answers: Sequence[Answer], *, backlog: Backlog | None = None
    ) -> str:
        limits.check_commit(position, answers)
        arguments: list[Argument] = [service, epoch, commit_no, position, limits.LEASE_MS, *(("", 0) if backlog is None else backlog)]
        for answer in answers:
            kind, worker, incarnation = limits.delivery_of(answer)
            event = answer.event
            arguments += (kind, codec.type_of(event), codec.encode(event), worker, incarnation, answer.recall or answer.extra)
        reply = await self._run(await self._link(goes_on=True), "commit", *arguments)
        if reply[0] == b"FENCED":
            raise refusals.fenced(service, epoch)
        if reply[0] == b"ALREADY":
            raise AlreadyCommitted(int(reply[1]), reply[2].decode())
        return reply[1].decode()  # type: ignore[no-any-return]

    # --- a worker ---
    async def register(self, event: WorkerRegistered, nonce: str, alive_for_ms: int) -> str:
        worker, incarnation = event.worker, event.incarnation
        limits.check_name("worker's id", worker)
        link = await self._link(looks=True)
        payload = codec.encode(event)
        reply = await self._run(link, "register", *self._run_and_start(link), worker, incarnation, nonce, alive_for_ms, payload)
        if reply[0] == b"REFUSED":
            raise refusals.worker_refused(worker, int(reply[1]))
        if reply[0] == b"OLD":
            raise refusals.incarnation_old(worker, incarnation, int(reply[1]))
        return reply[1].decode()  # type: ignore[no-any-return]

    async def incarnation(self, worker: str) -> int:
        return int(await self._ask(await self._link(), "HGET", f"{self._ns}:worker:{worker}", "incarnation") or 0)

    async def retire(self, event: WorkerRetired) -> None:
        await self._run(await self._link(), "retire", event.worker, event.incarnation, codec.encode(event))

    async def heartbeat(self, beat: Heartbeat, alive_for_ms: int) -> None:
        link = await self._link(goes_on=True)
        reply = await self._run(link, "heartbeat", beat.worker, beat.incarnation, alive_for_ms, _encode(beat), limits.HEARTBEATS_KEPT_MS)
        if reply[0] == b"LOST":
            raise refusals.incarnation_lost(beat.worker, beat.incarnation)

    async def read_heartbeats(self, after: str, count: int = 1000) -> list[tuple[str, Heartbeat]]:
        reply = await self._ask(await self._link(), "XREAD", "COUNT", count, "STREAMS", f"{self._ns}:heartbeats", after)
        return [(id, _decode_heartbeat(payload)) for id, payload in replies.side_rows(replies.of_stream(reply))]

    async def read_inbox(
        self, worker: str, incarnation: int, *, pending_after: str | None = None, count: int = MAX_BATCH, block_ms: int = 0
    ) -> list[InboxEntry]:
        inbox = f"{self._ns}:inbox:{worker}:{incarnation}"
        command: Command = ("XREADGROUP", "GROUP", "worker", worker, "COUNT", count)
        try:
            if pending_after is not None:
                reply = await self._ask(await self._link(goes_on=True), *command, "STREAMS", inbox, pending_after)
            elif not block_ms:
                reply = await self._ask(await self._link(goes_on=True), *command, "STREAMS", inbox, ">")
            else:
                block_ms = limits.check_block(block_ms)
                reply = await self._blocking(block_ms, *command, "BLOCK", block_ms, "STREAMS", inbox, ">", goes_on=True)
        except LogError as error:
            if "NOGROUP" in str(error) or "UNBLOCKED" in str(error):
                raise refusals.incarnation_lost(worker, incarnation) from error
            raise
        return replies.inbox_entries(replies.of_stream(reply))

    async def start(self, worker: str, incarnation: int, starts: Sequence[tuple[str, AttemptStarted]]) -> list[bool]:
        if not starts:
            return []
        limits.check_starts(incarnation, starts)
        ids = sorted((id for id, _ in starts), key=log_ids.key)
        arguments: list[Argument] = [worker, incarnation, ids[0], ids[-1]]
        for id, event in starts:
            arguments += (id, codec.encode(event))
        reply = await self._run(await self._link(goes_on=True), "start", *arguments)
        if reply[0] == b"LOST":
            raise refusals.incarnation_lost(worker, incarnation)
        return [answer == b"1" for answer in reply[1:]]

    async def report(self, worker: str, incarnation: int, first_seq: int, reports: Sequence[Report]) -> None:
        limits.check_reports(incarnation, first_seq, reports)
        link = await self._link(goes_on=True)
        arguments: list[Argument] = [*self._run_and_start(link), worker, incarnation, first_seq]
        for event, entry_id in reports:
            arguments += (codec.type_of(event), codec.encode(event), entry_id)
        await self._run(link, "report", *arguments)

    async def acknowledge(self, worker: str, incarnation: int, entry_ids: Sequence[str]) -> None:
        if entry_ids:
            await self._run(await self._link(), "acknowledge", worker, incarnation, *entry_ids)

    # --- telemetry ---
    async def append_telemetry(self, points: Sequence[tuple[str, TelemetryPoint]]) -> None:
        link = await self._link()
        commands: list[Command] = []
        for task, point in points:
            commands.append(("XADD", self._telemetry(task), "MAXLEN", "~", limits.TELEMETRY_ENTRIES, "*", "data", _encode(point)))
        commands += [("EXPIRE", self._telemetry(task), limits.TELEMETRY_KEPT_SEC) for task in dict.fromkeys(task for task, _ in points)]
        for first in range(0, len(commands), limits.SENT_TOGETHER):
            await self._ask_all(link, commands[first : first + limits.SENT_TOGETHER])

    async def read_telemetry(self, task: str, after: str, count: int = 500, block_ms: int = 0) -> list[tuple[str, TelemetryPoint]]:
        if block_ms:
            block_ms = limits.check_block(block_ms)
            reply = await self._blocking(block_ms, "XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", self._telemetry(task), after)
        else:
            reply = await self._ask(await self._link(), "XREAD", "COUNT", count, "STREAMS", self._telemetry(task), after)
        return [(id, _decode_point(payload)) for id, payload in replies.side_rows(replies.of_stream(reply))]

    async def telemetry_news(self, after: Mapping[str, str]) -> set[str]:
        if not after:
            return set()
        command: Command = ("XREAD", "COUNT", 1, "STREAMS", *map(self._telemetry, after), *after.values())
        prefix = len(self._telemetry(""))
        return {key.decode()[prefix:] for key, _ in await self._ask(await self._link(), *command) or ()}

    # --- small shared values ---
    async def set_secret(self, task: str, values: dict[str, str]) -> None:
        await self._ask(await self._link(), "SET", f"{self._ns}:secret:{task}", _encode(values))

    async def secrets(self, task: str) -> dict[str, str]:
        stored = await self._ask(await self._link(), "GET", f"{self._ns}:secret:{task}")
        return _decode_secrets(stored) if stored else {}

    async def forget_secret(self, task: str) -> None:
        await self._ask(await self._link(), "DEL", f"{self._ns}:secret:{task}")

    async def set_results_mark(self, nonce: str, folder: str = "") -> None:
        await self._ask(await self._link(), "MSET", f"{self._ns}:results_mark", nonce, f"{self._ns}:results_folder", folder)

    async def results_mark(self) -> str:
        return await self._text("results_mark")

    async def results_folder(self) -> str:
        return await self._text("results_folder")

    async def close(self) -> None:
        await self._connections.close()

    # --- private ---

    async def _text(self, name: str) -> str:
        stored = await self._ask(await self._link(), "GET", f"{self._ns}:{name}")
        return stored.decode() if stored else ""

    def _telemetry(self, task: str) -> str:
        return f"{self._ns}:telemetry:{task}"

    def _run_and_start(self, link: Link) -> tuple[str, bytes]:
        """The server's run, and the entry that starts a log; for scripts that may be the first to write."""
        if self._first_entry[0] != link.run_id:
            self._first_entry = link.run_id, codec.encode(LogStarted(log_id=self._log_id, run_id=link.run_id))
        return self._first_entry

    async def _submit(self, link: Link, calls: Sequence[SubmissionCall]) -> list[SubmissionAnswer]:
        found = await self._run_each(link, [(call.script, call.arguments) for call in calls])
        return [answer for call, reply in zip(calls, found, strict=True) for answer in call.answers(reply)]

    async def _link(self, *, goes_on: bool = False, looks: bool = False) -> Link:
        """The link for commands; calls that `go on` from before are told of a new run of the server until the caller `looks` at it."""
        link = await self._connections.commands()
        self._compare(link, goes_on, looks)
        return link

    def _compare(self, link: Link, goes_on: bool, looks: bool) -> None:
        if looks or not self._known_run:
            self._known_run = link.run_id
        elif goes_on and link.run_id != self._known_run:
            raise refusals.server_changed(link.run_id)

    async def _blocking(self, block_ms: int, *command: Argument, goes_on: bool = False, looks: bool = False) -> Any:
        async with self._connections.reading() as link:
            self._compare(link, goes_on, looks)
            return _checked((await link.calls([command], blocks_sec=block_ms / 1000))[0])

    async def _ask(self, link: Link, *command: Argument) -> Any:
        return _checked(await link.call(*command))

    async def _ask_all(self, link: Link, commands: Sequence[Command]) -> list[Any]:
        return [_checked(reply) for reply in await link.calls(commands)]

    async def _run(self, link: Link, name: str, *arguments: Argument) -> Any:
        return _checked((await self._run_each(link, [(name, arguments)]))[0])

    async def _run_each(self, link: Link, calls: Sequence[tuple[str, Sequence[Argument]]]) -> list[Any]:
        """Replies of scripts, errors as values; a server that does not know one (a new run) is given its text first."""
        commands: list[Command] = [("EVALSHA", SCRIPTS[name].sha1, 1, self._events, self._ns, *arguments) for name, arguments in calls]
        results = await link.calls(commands)
        unknown = [i for i, reply in enumerate(results) if isinstance(reply, redis_errors.NoScriptError)]
        if unknown:
            for name in dict.fromkeys(calls[i][0] for i in unknown):
                _checked(await link.call("SCRIPT", "LOAD", SCRIPTS[name].text))
            for i, reply in zip(unknown, await link.calls([commands[i] for i in unknown]), strict=True):
                results[i] = reply
        return results


def _checked(reply: Any) -> Any:
    if isinstance(reply, redis_errors.RedisError):
        raise replies.explained(reply) from reply
    return reply


def _granted(answers: Sequence[SubmissionAnswer]) -> list[Submitted]:
    """Raises the first refusal."""
    granted: list[Submitted] = []
    for answer in answers:
        if isinstance(answer, LogError):
            raise answer
        granted.append(answer)
    return granted
