"""One task's state machine: a frozen value, and one pure function for each thing that can happen to it.

    waiting ─▶ ready ─▶ dispatched ─▶ running ─▶ succeeded ─▶ published
                 ▲           │            ├────▶ failed ──▶ backoff / ready, or dead_lettered
                 └── lost ◀──┴─ orphaned ◀┘      (a person's retry leads back to ready)
    any open phase ─▶ cancelled | timed_out;    a late success also ends ready, backoff, failed, lost, orphaned and dead_lettered

A pipeline and a sharded task have children and no attempts: waiting ─▶ running ─▶ succeeded ─▶ published, dead_lettered while a child is.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from mloc.core.callbacks import Callback, waiting
from mloc.core.events import ArtifactStored, Error, Need, Parallel, TaskSubmitted
from mloc.core.failure import cancellation, timeout
from mloc.core.sharding import shard_range

Phase = Literal[
    "waiting", "ready", "backoff", "dispatched", "running", "succeeded", "published",
    "failed", "lost", "orphaned", "dead_lettered", "cancelled", "timed_out",
]  # fmt: skip

ENDED = frozenset({"succeeded", "published", "cancelled", "timed_out"})  # nothing that an attempt does changes the outcome
FINAL = frozenset({"published", "cancelled", "timed_out"})  # nothing at all changes it
OVER_KEPT = 8
STORED_KEPT = 4096  # uploaded files of one task that are remembered
PLACEABLE = frozenset({"ready", "backoff"})
IN_FLIGHT = frozenset({"dispatched", "running"})

# the older names of states that clients know
STATUS: dict[str, str] = {
    "waiting": "PENDING", "ready": "PENDING", "backoff": "PENDING", "lost": "PENDING", "orphaned": "PENDING", "failed": "PENDING",
    "dispatched": "DISPATCHED", "running": "RUNNING", "succeeded": "RUNNING", "published": "DONE",
    "dead_lettered": "FAILED", "cancelled": "FAILED", "timed_out": "FAILED",
}  # fmt: skip


class StoredFile(Struct, frozen=True, omit_defaults=True, gc=False):
    """An uploaded file of a task. Attempt 0: of whichever attempt is published."""

    name: str  # below artifacts/
    sha256: str
    size_bytes: int = 0
    attempt: int = 0


class Task(Struct, frozen=True, omit_defaults=True, gc=False):
    """What the log says of one task. Times are ms since 1970, of the entry that caused them; 0 for never."""

    id: str
    name: str = ""
    kind: str = ""
    task_type: str = ""  # empty for a pipeline
    need: Need | None = None
    spec_digest: str = ""
    owner: str = ""
    project: str = ""
    labels: dict[str, str] = {}
    priority: int = 50
    order: int = 0  # rank of submission
    parent: str = ""
    stage: str = ""
    children: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    pending: int = 0  # dependencies whose results are not published yet
    parallel: Parallel | None = None
    items: int = 0
    shard: tuple[int, int] | None = None  # (index, count)
    max_attempts: int = 3
    backoff_sec: float = 10.0
    timeout_sec: float = 0.0

    phase: Phase = "waiting"
    since_ms: int = 0  # of the present phase
    submitted_ms: int = 0
    started_ms: int = 0  # of the present or last attempt
    ended_ms: int = 0
    current: int = 0  # the attempt that is dispatched or runs
    last: int = 0  # the highest attempt number used up
    tries: int = 0  # dispatches so far
    attempts_after: int = 0  # numbers up to this one may have been used in a log that was lost as a whole
    over: tuple[int, ...] = ()  # the newest attempts whose own last event the log has: never to be adopted again
    failures: int = 0  # counted against max_attempts
    worker: str = ""  # of the present or last attempt
    incarnation: int = 0
    not_before_ms: int = 0
    failed_on: str = ""  # worker of the last failure
    error: Error | None = None
    reason: str = ""  # of the present phase, for a person
    retry_by: str = ""  # who asked for a retry that is not decided yet
    rows: int = 0
    checkpoint: str = ""
    checkpoint_step: int = 0
    done: int = 0  # children published
    dead: int = 0  # children dead-lettered
    ended: int = 0  # children in a final phase
    result_id: str = ""  # entry that holds or announces the result
    result_attempt: int = 0
    result_inline: bool = True
    result_files: bool = False
    stored: tuple[StoredFile, ...] = ()  # uploaded, in order
    callbacks: tuple[Callback, ...] = ()  # who is told of its end
    has_secrets: bool = False
    model: str = ""  # that it starts from, by name
    ttl_ms: int = 0  # how long the result is kept after the end; 0: for ever
    expired_ms: int = 0  # when the result's files were removed


def submitted(event: TaskSubmitted, order: int, pending: int, now_ms: int) -> Task:
    """A new task: ready when it waits for nothing."""
    is_parent = bool(event.children)
    return Task(
        id=event.task, name=event.name, kind=event.kind, task_type=event.task_type, need=event.need, spec_digest=event.spec_digest,
        owner=event.owner, project=event.project, labels=event.labels, priority=event.priority, order=order, parent=event.parent,
        stage=event.stage, children=event.children, depends_on=event.depends_on, pending=pending, parallel=event.parallel,
        items=event.items, max_attempts=event.max_attempts, backoff_sec=event.backoff_sec, timeout_sec=event.timeout_sec,
        phase="waiting" if pending or is_parent else "ready", since_ms=now_ms, submitted_ms=now_ms,
        callbacks=waiting(event.receivers) if event.receivers else (), has_secrets=event.has_secrets, model=event.model,
        ttl_ms=int(event.ttl_sec * 1000), attempts_after=now_ms if event.sent_before else 0,
    )  # fmt: skip


def shard_of(parent: Task, index: int, count: int, now_ms: int) -> Task:
    """The i-th shard of a sharded task: a task of its own that shares the parent's spec."""
    return replace(
        parent,
        id=f"{parent.id}.s{index}", name=f"{parent.name}.s{index}", parent=parent.id, stage="", children=(), parallel=None, callbacks=(),
        has_secrets=False, ttl_ms=0,
        shard=(index, count), items=len(shard_range(index, count, parent.items)), phase="ready", since_ms=now_ms,
    )  # fmt: skip


def is_open(task: Task) -> bool:
    """Whether a first success would still be its result."""
    return task.phase not in ENDED


def ready(task: Task, now_ms: int, reason: str = "") -> Task:
    return replace(task, phase="ready", since_ms=now_ms, reason=reason, current=0, not_before_ms=0)


def dispatched(task: Task, attempt: int, worker: str, incarnation: int, now_ms: int) -> Task:
    return replace(
        task, phase="dispatched", since_ms=now_ms, current=attempt, last=attempt, tries=task.tries + 1, worker=worker,
        incarnation=incarnation, reason="",
    )  # fmt: skip


def used_up(task: Task, attempt: int) -> Task:
    """A void dispatch still uses up its attempt number."""
    return task if attempt <= task.last else replace(task, last=attempt)


def started(task: Task, now_ms: int) -> Task:
    return replace(task, phase="running", since_ms=now_ms, started_ms=now_ms)


def adopted(task: Task, attempt: int, worker: str, incarnation: int, now_ms: int) -> Task:
    """A worker that registered anew still runs this attempt: it keeps its number, and its time-out its start."""
    began = task.started_ms if task.last == attempt and task.started_ms else now_ms
    return replace(
        task, phase="running", since_ms=now_ms, started_ms=began, current=attempt, last=max(task.last, attempt), worker=worker,
        incarnation=incarnation, not_before_ms=0, error=None, reason="", retry_by="",
    )  # fmt: skip


def with_rows_answered(task: Task, answered: object) -> Task:
    """What the result says of its number, where the input's was not known at intake: the rows of a file are counted by who reads it."""
    return replace(task, items=answered) if task.rows and not task.items and isinstance(answered, int) and answered >= 1 else task


def succeeded(task: Task, attempt: int, worker: str, result_id: str, inline: bool, files: bool, now_ms: int) -> Task:
    return replace(
        task, phase="succeeded", since_ms=now_ms, ended_ms=now_ms, current=0, worker=worker, error=None, reason="", retry_by="",
        result_id=result_id, result_attempt=attempt, result_inline=inline, result_files=files,
    )  # fmt: skip


def over(task: Task, attempt: int) -> Task:
    """The log has the attempt's own last event. A worker that did not hear so may still list it."""
    return replace(task, over=(*task.over[1 - OVER_KEPT :], attempt))


def failed(task: Task, error: Error, now_ms: int) -> Task:
    return replace(
        task, phase="failed", since_ms=now_ms, current=0, failures=task.failures + 1, failed_on=task.worker, error=error, reason=error.message
    )


def lost(task: Task, reason: str, now_ms: int) -> Task:
    """The attempt is over without a verdict; the scheduler puts the task back."""
    return replace(task, phase="lost", since_ms=now_ms, current=0, reason=reason)


def orphaned(task: Task, reason: str, now_ms: int) -> Task:
    """The attempt's worker is gone, which the log does not say of the attempt yet."""
    return replace(task, phase="orphaned", since_ms=now_ms, reason=reason)


def requeued(task: Task, reason: str, delay_ms: int, now_ms: int) -> Task:
    forgiven = 0 if task.phase == "dead_lettered" else task.failures
    phase: Phase = "backoff" if delay_ms > 0 else "ready"
    return replace(
        task, phase=phase, since_ms=now_ms, current=0, failures=forgiven, not_before_ms=now_ms + delay_ms if delay_ms > 0 else 0,
        reason=reason, retry_by="",
    )  # fmt: skip


def dead_lettered(task: Task, error: Error | None, now_ms: int, reason: str = "") -> Task:
    return replace(task, phase="dead_lettered", since_ms=now_ms, current=0, error=error, reason=reason or (error.message if error else ""))


def cancelled(task: Task, reason: str, now_ms: int) -> Task:
    return replace(task, phase="cancelled", since_ms=now_ms, ended_ms=now_ms, current=0, reason=reason, retry_by="")


def timed_out(task: Task, now_ms: int) -> Task:
    error = timeout(task.timeout_sec)
    return replace(task, phase="timed_out", since_ms=now_ms, ended_ms=now_ms, current=0, error=error, reason=error.message, retry_by="")


def failure_of(task: Task) -> Error:
    """Of a task that ended without a result."""
    if task.phase == "cancelled":
        return cancellation(task.reason)
    return task.error or Error("Unknown", task.reason or f"the task is {task.phase}", retryable=False)


def rows_done(task: Task) -> int:
    """Input rows that are done. A success has them all: its last ones come with it and not before. Rows done anew are not counted twice."""
    if task.items and task.phase in ("succeeded", "published"):
        return task.items
    return min(task.rows, task.items) if task.items else task.rows


def published(task: Task, now_ms: int) -> Task:
    return replace(task, phase="published", since_ms=now_ms)


def with_stored(task: Task, event: ArtifactStored) -> Task:
    """The first content under a name of an attempt stays."""
    if len(task.stored) >= STORED_KEPT or any(file.name == event.name and file.attempt == event.attempt for file in task.stored):
        return task
    return replace(task, stored=(*task.stored, StoredFile(event.name, event.sha256, event.size_bytes, event.attempt)))
