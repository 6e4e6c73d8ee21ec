"""The event log as services, workers and clients see it. Two implementations: Redis (`redis_log`) and one in memory (`memory_log`).

Every writing call is atomic, checks its arguments before it writes, and is harmless when repeated: a reply can be lost, so callers repeat
a call after `LogUnavailable`. Ids are `<milliseconds>-<sequence>`, a total order; `core.log_ids` compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from mloc.core.answers import Answer
from mloc.core.events import AttemptReport, AttemptStarted, Event, WorkerRegistered, WorkerRetired

MAX_BATCH = 256


class LogError(Exception):
    """What the log says to a caller; the message tells a person what to do."""


class LogUnavailable(LogError):
    """No connection, or the server cannot write now (loading, read-only, out of memory, disk full): try again."""


class LogRefused(LogUnavailable):
    """The server answers and does not let us in: trying again helps once a person has corrected a password."""


class ServerChanged(LogError):
    """The connection was made anew, to another server run: compare the last folded entry, lease and register again.

    Calls that go on from before (read from a position, renew, commit, start, report, heartbeat, read_inbox) raise it until the caller looks at
    the new run with `run_id`, `lease`, `register` or a read from the start. So one log object belongs to one service, observer or worker.
    """


class KeyConflict(LogError):
    """The idempotency key was used with another body."""


class BacklogFull(LogError):
    """More tasks wait than the backlog takes."""


class LeaseHeld(LogError):
    """A living leader holds the service's lease."""


class Fenced(LogError):
    """Another leader has taken the lease: stop."""


class AlreadyCommitted(LogError):
    """An earlier try of this commit arrived: go on with `commit_no`, and decide only when `last_id` was read back."""

    def __init__(self, commit_no: int, last_id: str) -> None:
        super().__init__(f"this commit is in the log already; the next one has number {commit_no}")
        self.commit_no = commit_no
        self.last_id = last_id


class WorkerRefused(LogError):
    """Another living worker has this id."""


class IncarnationLost(LogError):
    """The worker's incarnation is revoked or not the newest: register anew."""


class Entry(NamedTuple):
    """One entry of the control log, not decoded: many readers skip most types."""

    id: str
    type: str
    payload: bytes


class InboxEntry(NamedTuple):
    """One entry of a worker's inbox. Its id is the id of the event in the control log. `extra` is the JSON of a `core.answers.Dispatch`."""

    id: str
    type: str
    payload: bytes
    extra: bytes


class Submitted(Struct, frozen=True, gc=False):
    """`ids` of the appended events; a repeat under the same idempotency key gives the first call's `tasks` and no new event."""

    tasks: tuple[str, ...]
    last_id: str
    repeated: bool = False


class Lease(Struct, frozen=True, gc=False):
    epoch: int
    commit_no: int
    last_id: str  # the barrier: fold to here before the first decision
    now_ms: int  # the server's clock
    run_id: str


class Backlog(NamedTuple):
    """What the scheduler has folded: tasks that have not ended, and all that were ever submitted."""

    open_tasks: int
    submitted: int


class Report(NamedTuple):
    """A worker's report; with the attempt's last one (`entry_id` set) its inbox entry is acknowledged and removed."""

    event: AttemptReport | Event
    entry_id: str = ""


class Heartbeat(Struct, frozen=True, omit_defaults=True, gc=False):
    """Sign of life with what a person wants to see of the worker."""

    worker: str
    incarnation: int
    cpu_percent: float = 0.0
    memory_bytes: int = 0
    device_percent: tuple[float, ...] = ()
    device_memory: tuple[int, ...] = ()
    running: int = 0


class TelemetryPoint(Struct, frozen=True, omit_defaults=True, gc=False):
    """One log line or metric point of a task. `dropped` counts what did not fit before it."""

    attempt: int
    line: str = ""
    step: int = 0
    total_steps: int = 0
    metrics: dict[str, float] = {}
    dropped: int = 0


class EventLog(Protocol):
    """One namespace of one server. All calls raise LogUnavailable when the server cannot be reached."""

    # --- anyone: reading ---
    async def read(self, after: str, count: int = MAX_BATCH, block_ms: int = 0) -> list[Entry]:
        """Entries after id `after` (`0-0`: from the start), at most `count`, waiting up to `block_ms` for the first."""

    async def entry(self, id: str) -> Entry | None:
        """The entry with this id; None where the log never had it or was trimmed."""

    async def ends(self) -> tuple[str, str]:
        """Ids of the first and the last entry; `0-0` twice for an empty log."""

    async def run_id(self) -> str:
        """Identity of the server's run; it changes with every restart."""

    async def now_ms(self) -> int:
        """The server's clock."""

    # --- intake and console ---
    async def submit(
        self, events: Sequence[Event], *, key: str = "", body_sha256: str = "", backlog_limit: int = 0
    ) -> Submitted:
        """Append requests or one file's submissions whole or not at all. Raises KeyConflict, BacklogFull."""

    async def submit_each(self, submissions: Sequence[Sequence[Event]], *, backlog_limit: int = 0) -> list[Submitted]:
        """Many independent submissions in one round trip, each whole or not at all, under the idempotency keys in their own events. All are
        tried; then the first error is raised."""

    async def try_each(self, submissions: Sequence[Sequence[Event]], *, backlog_limit: int = 0) -> list[Submitted | LogError]:
        """The same with the refusals as values. Raises LogUnavailable."""

    # --- a service ---
    async def lease(self, service: str, holder: str) -> Lease:
        """Take the lease (2 s): epoch + 1. Appends LogStarted to an empty log, ServerRestarted when the run is another. Raises LeaseHeld."""

    async def renew(self, service: str, epoch: int) -> int:
        """Prolong the lease; gives the server's clock in ms. Raises Fenced."""

    async def release(self, service: str, epoch: int) -> None:
        """Give the lease back, so that a successor need not wait for it to expire."""

    async def commit(
        self, service: str, epoch: int, commit_no: int, position: str, answers: Sequence[Answer], *, backlog: Backlog | None = None
    ) -> str:
        """Append answers, deliver dispatches and stops, move the cursor to `position`; gives the log's last id if it wrote or skipped
        anything, else "". The next commit has number `commit_no` + 1, also after one without answers. The scheduler's
        `backlog` as of `position`, with what was submitted since, is what `submit` compares its limit with. Raises Fenced, AlreadyCommitted."""

    # --- a worker ---
    async def register(self, event: WorkerRegistered, nonce: str, alive_for_ms: int) -> str:
        """Register an incarnation and make its inbox; gives the event's id. Raises WorkerRefused, IncarnationLost (one as new exists)."""

    async def incarnation(self, worker: str) -> int:
        """The newest incarnation of this worker that the server knows; 0 for none."""

    async def retire(self, event: WorkerRetired) -> None:
        """Append WorkerRetired, revoke the incarnation, delete its inbox."""

    async def heartbeat(self, beat: Heartbeat, alive_for_ms: int) -> None:
        """Raises IncarnationLost when it was revoked."""

    async def read_heartbeats(self, after: str, count: int = 1000) -> list[tuple[str, Heartbeat]]:
        """Heartbeats after id `after`, never blocking."""

    async def read_inbox(
        self, worker: str, incarnation: int, *, pending_after: str | None = None, count: int = MAX_BATCH, block_ms: int = 0
    ) -> list[InboxEntry]:
        """New inbox entries, waiting up to `block_ms`; with `pending_after` those delivered before and not acknowledged, after that id."""

    async def start(self, worker: str, incarnation: int, starts: Sequence[tuple[str, AttemptStarted]]) -> list[bool]:
        """For each (inbox entry id, event): append AttemptStarted and mark the entry started; a repeat finds the mark. False: the entry is
        not there any more, never start it. Raises IncarnationLost."""

    async def report(self, worker: str, incarnation: int, first_seq: int, reports: Sequence[Report]) -> None:
        """Append reports numbered first_seq, first_seq + 1, … of that incarnation; numbers already seen append nothing. Never refused for a
        revoked incarnation: a late success counts."""

    async def acknowledge(self, worker: str, incarnation: int, entry_ids: Sequence[str]) -> None:
        """Remove inbox entries that need no report (stops)."""

    # --- telemetry ---
    async def append_telemetry(self, points: Sequence[tuple[str, TelemetryPoint]]) -> None:
        """Append (task, point)s; each task's stream is capped."""

    async def read_telemetry(self, task: str, after: str, count: int = 500, block_ms: int = 0) -> list[tuple[str, TelemetryPoint]]:
        """Telemetry of a task after id `after`."""

    async def telemetry_news(self, after: Mapping[str, str]) -> set[str]:
        """Those of the tasks whose telemetry has something after the id given for them."""

    # --- small shared values ---
    async def set_secret(self, task: str, values: dict[str, str]) -> None: ...
    async def secrets(self, task: str) -> dict[str, str]: ...
    async def forget_secret(self, task: str) -> None: ...

    async def set_results_mark(self, nonce: str, folder: str = "") -> None:
        """What a file of the aggregator's results folder is named after: who sees it has the same folder. `folder` is its path there."""

    async def results_mark(self) -> str:
        """The latest of them; empty where there never was an aggregator."""

    async def results_folder(self) -> str:
        """The path that came with it."""

    async def close(self) -> None: ...
