"""The data of the event log in memory, and what each script does to it: the same refusals and the same repeats as in `scripts/`.

Every method is one atomic step at a given time of the server's clock, checks before its first write, and is deterministic, so that a
journal of the steps gives the state again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import msgspec

from mloc.core import codec, log_ids
from mloc.core.events import LeaderElected, LogStarted, ServerRestarted
from mloc.services.log import refusals
from mloc.services.log.event_log import AlreadyCommitted, Backlog, Entry, InboxEntry, Lease, Submitted
from mloc.services.log.limits import GROUPS, HEARTBEATS_KEPT_MS, IDEMPOTENCY_KEPT_MS, LEASE_MS, TELEMETRY_ENTRIES
from mloc.services.log.memory_records import (
    Encoded,
    EncodedAnswer,
    Id,
    Inbox,
    Leader,
    Protection,
    Remembered,
    Stream,
    WorkerRecord,
    Writer,
    next_id,
    written,
)


class MemoryState:
    def __init__(self, log_id: str, without: frozenset[Protection]) -> None:
        self._log_id = log_id
        self._without = without
        self.entries: list[Entry] = []
        self.ids: list[Id] = []
        self.run_id = ""  # the one that the log knows
        self.groups: dict[str, str] = {}
        self.leaders: dict[str, Leader] = {}
        self.open_tasks = 0
        self.accepted = 0  # tasks that were ever taken
        self.remembered: dict[str, Remembered] = {}
        self.workers: dict[str, WorkerRecord] = {}
        self.inboxes: dict[tuple[str, int], Inbox] = {}
        self.heartbeats = Stream()
        self.telemetry: dict[str, Stream] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.results_mark = self.results_folder = ""
        self.appended: list[tuple[Entry, Writer]] = []  # by the step that runs; emptied by who runs it

    # --- reading ---
    def read(self, after: str, count: int) -> list[Entry]:
        first = bisect_right(self.ids, log_ids.key(after))
        return self.entries[first : first + count]

    def entry(self, id: str) -> Entry | None:
        key = log_ids.key(id)
        at = bisect_left(self.ids, key)
        return self.entries[at] if at < len(self.ids) and self.ids[at] == key else None

    def last_id(self) -> str:
        return self.entries[-1].id if self.entries else log_ids.START

    def is_current(self, worker: str, incarnation: int) -> bool:
        known = self.workers.get(worker)
        return known is not None and known.incarnation == incarnation and not known.revoked

    # --- scripts ---
    def submit(
        self, now: int, run_id: str, events: Sequence[Encoded], tasks: tuple[str, ...], key: str, body_sha256: str, limit: int
    ) -> Submitted:
        first = self.remembered.get(key) if key else None
        if first is not None and first.expires > now:
            if first.body_sha256 != body_sha256:
                raise refusals.key_conflict(key)
            return Submitted(first.tasks, first.last_id, repeated=True)
        if limit and tasks and self.open_tasks + len(tasks) > limit:
            raise refusals.backlog_full(self.open_tasks, len(tasks), limit)
        writer = Writer("submit")
        self._start_log(now, run_id, writer)
        last = ""
        for type_, payload in events:
            last = self._append(now, type_, payload, writer)
        self.open_tasks += len(tasks)
        self.accepted += len(tasks)
        if key:
            self.remembered[key] = Remembered(body_sha256, tasks, last, now + IDEMPOTENCY_KEPT_MS)
        return Submitted(tasks, last)

    def lease(self, now: int, run_id: str, service: str, holder: str) -> Lease:
        leader = self.leaders.setdefault(service, Leader())
        if leader.expires > now and leader.holder != holder:
            raise refusals.lease_held(service, leader.holder, leader.expires - now)
        writer = Writer("lease", service, leader.epoch + 1, leader.epoch + 1)
        self._start_log(now, run_id, writer)
        if self.run_id != run_id:
            self.run_id = run_id
            self._append_event(now, ServerRestarted(run_id=run_id), writer)
        leader.epoch, leader.holder, leader.expires = leader.epoch + 1, holder, now + LEASE_MS
        last = self._append_event(now, LeaderElected(service=service, epoch=leader.epoch, holder=holder), writer)
        for group in GROUPS:
            self.groups.setdefault(group, log_ids.START)
        return Lease(leader.epoch, leader.commit_no, last, now, run_id)

    def renew(self, now: int, service: str, epoch: int, lease_ms: int) -> int:
        leader = self.leaders.get(service)
        if leader is None or leader.epoch != epoch:
            raise refusals.fenced(service, epoch)
        leader.expires = now + lease_ms
        return now

    def commit(
        self, now: int, service: str, epoch: int, commit_no: int, position: str, answers: Sequence[EncodedAnswer], backlog: Backlog | None
    ) -> str:
        leader = self.leaders.get(service)
        if leader is None or (leader.epoch != epoch and "epoch" not in self._without):
            raise refusals.fenced(service, epoch)
        if leader.commit_no != commit_no and "commit number" not in self._without:
            raise AlreadyCommitted(leader.commit_no, self.last_id())
        leader.commit_no, leader.expires = leader.commit_no + 1, now + LEASE_MS
        if backlog is not None and service == "scheduler":
            if self.accepted < backlog.submitted or (not answers and position == self.last_id()):
                self.accepted = backlog.submitted
            self.open_tasks = backlog.open_tasks + self.accepted - backlog.submitted
        writer = Writer("commit", service, epoch, leader.epoch)
        for answer in answers:
            self._commit_one(now, answer, writer)
        if service in self.groups:
            self.groups[service] = position
        return self.last_id() if answers else ""

    def _commit_one(self, now: int, answer: EncodedAnswer, writer: Writer) -> None:
        kind, type_, payload, worker, incarnation, extra, recall = answer
        inbox = self.inboxes.get((worker, incarnation))
        writer = writer._replace(worker=worker, incarnation=incarnation)
        if kind == "recall":
            if inbox is None or recall not in inbox.entries or recall in inbox.started:
                return
            inbox.remove([recall])
        id = self._append(now, type_, payload, writer)
        if kind == "deliver" and inbox is not None:
            inbox.entries[id] = InboxEntry(id, type_, payload, extra)
        elif kind == "revoke":
            if (known := self.workers.get(worker)) is not None and known.incarnation == incarnation:
                known.revoked = True
            self.inboxes.pop((worker, incarnation), None)

    def register(self, now: int, run_id: str, worker: str, incarnation: int, nonce: str, alive_for_ms: int, event: Encoded) -> str:
        known = self.workers.get(worker)
        if known is not None and known.incarnation:
            if not known.revoked and known.alive_until > now and known.nonce != nonce:
                raise refusals.worker_refused(worker, known.alive_until - now)
            if known.incarnation == incarnation and known.nonce == nonce and not known.revoked:
                return known.registered
            if known.incarnation >= incarnation:
                raise refusals.incarnation_old(worker, incarnation, known.incarnation)
        writer = Writer("register", worker=worker, incarnation=incarnation)
        self._start_log(now, run_id, writer)
        id = self._append(now, *event, writer)
        seen = known.seen if known is not None else {}
        if known is not None:
            self.inboxes.pop((worker, known.incarnation), None)
        self.workers[worker] = WorkerRecord(incarnation, nonce, False, now + alive_for_ms, id, seen)
        self.inboxes[worker, incarnation] = Inbox()
        return id

    def retire(self, now: int, worker: str, incarnation: int, event: Encoded) -> None:
        if not self.is_current(worker, incarnation):
            return
        self._append(now, *event, Writer("retire", worker=worker, incarnation=incarnation))
        self.workers[worker].revoked = True
        self.inboxes.pop((worker, incarnation), None)

    def heartbeat(self, now: int, worker: str, incarnation: int, alive_for_ms: int, payload: bytes) -> None:
        self._check_current(worker, incarnation)
        self.heartbeats.append(now, payload)
        while log_ids.time_ms(self.heartbeats.rows[0][0]) < now - HEARTBEATS_KEPT_MS:
            self.heartbeats.rows.popleft()
        if (known := self.workers.get(worker)) is not None:
            known.alive_until = now + alive_for_ms

    def deliver(self, now: int, worker: str, incarnation: int, count: int) -> list[InboxEntry]:
        """XREADGROUP: what was not delivered before becomes pending."""
        inbox = self.inbox(worker, incarnation)
        after = log_ids.key(inbox.delivered)
        found = [entry for entry in inbox.entries.values() if log_ids.key(entry.id) > after][:count]
        for entry in found:
            inbox.pending[entry.id] = None
            inbox.delivered = entry.id
        return found

    def pending(self, worker: str, incarnation: int, after: str, count: int) -> list[InboxEntry]:
        inbox = self.inbox(worker, incarnation)
        start = log_ids.key(after)
        return [inbox.entries[id] for id in inbox.pending if log_ids.key(id) > start][:count]

    def inbox(self, worker: str, incarnation: int) -> Inbox:
        inbox = self.inboxes.get((worker, incarnation))
        if inbox is None:
            raise refusals.incarnation_lost(worker, incarnation)
        return inbox

    def start(self, now: int, worker: str, incarnation: int, starts: Sequence[tuple[str, Encoded]]) -> list[bool]:
        self._check_current(worker, incarnation)
        inbox = self.inboxes.get((worker, incarnation), Inbox())
        writer = Writer("start", worker=worker, incarnation=incarnation)
        may_run = []
        for entry_id, event in starts:
            there = entry_id in inbox.pending or "check in start" in self._without
            if there and entry_id not in inbox.started:
                inbox.started.add(entry_id)
                self._append(now, *event, writer)
            may_run.append(there)
        return may_run

    def report(
        self, now: int, run_id: str, worker: str, incarnation: int, first_seq: int, reports: Sequence[tuple[Encoded, str]]
    ) -> None:
        record = self.workers.setdefault(worker, WorkerRecord())
        seen = record.seen.get(incarnation, 0)
        writer = Writer("report", worker=worker, incarnation=incarnation)
        for number, (event, _) in enumerate(reports, first_seq):
            if number > seen:
                self._start_log(now, run_id, writer)
                self._append(now, *event, writer)
                record.seen[incarnation] = number
        self.acknowledge(now, worker, incarnation, [entry_id for _, entry_id in reports if entry_id])

    def acknowledge(self, now: int, worker: str, incarnation: int, entry_ids: Sequence[str]) -> None:
        if (inbox := self.inboxes.get((worker, incarnation))) is not None:
            inbox.remove(entry_ids)

    def add_telemetry(self, now: int, points: Sequence[tuple[str, bytes]]) -> None:
        for task, payload in points:
            self.telemetry.setdefault(task, Stream(TELEMETRY_ENTRIES)).append(now, payload)

    def set_results_mark(self, now: int, nonce: str, folder: str) -> None:
        self.results_mark, self.results_folder = nonce, folder

    def set_secret(self, now: int, task: str, values: bytes | None) -> None:
        if values is None:
            self.secrets.pop(task, None)
        else:
            self.secrets[task] = msgspec.json.decode(values, type=dict[str, str])

    # --- private ---
    def _check_current(self, worker: str, incarnation: int) -> None:
        if not self.is_current(worker, incarnation) and "lost answer" not in self._without:
            raise refusals.incarnation_lost(worker, incarnation)

    def _start_log(self, now: int, run_id: str, writer: Writer) -> None:
        if not self.entries:
            self.run_id = run_id
            self._append_event(now, LogStarted(log_id=self._log_id, run_id=run_id), writer)

    def _append_event(self, now: int, event: LogStarted | ServerRestarted | LeaderElected, writer: Writer) -> str:
        return self._append(now, codec.type_of(event), codec.encode(event), writer)

    def _append(self, now: int, type_: str, payload: bytes, writer: Writer) -> str:
        id = next_id(self.ids[-1] if self.ids else (0, 0), now)
        entry = Entry(written(id), type_, payload)
        self.ids.append(id)
        self.entries.append(entry)
        self.appended.append((entry, writer))
        return entry.id
