"""What people and programs see of a task: the JSON of the API and of the commands' `--json`, from the cluster state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mloc.core.callbacks import Callback
from mloc.core.cluster import Cluster
from mloc.core.events import Error, TaskSubmitted
from mloc.core.language.secrets import MASK, masked
from mloc.core.task import FINAL, STATUS, Phase, Task, rows_done
from mloc.services.transfers.transfer_errors import shown_url

Status = Literal["PENDING", "DISPATCHED", "RUNNING", "DONE", "FAILED"]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""ISO 8601, UTC, with milliseconds."""

assert set(STATUS.values()) == set(get_args(Status))


class ErrorView(Struct, frozen=True):
    """Why a task failed; `retryable` says whether trying again can help."""

    type: str
    message: str
    retryable: bool


class ShardView(Struct, frozen=True):
    index: int
    count: int


class RowsView(Struct, frozen=True):
    """Input rows that are done, of how many where that is known."""

    done: int
    of: int | None


class CheckpointView(Struct, frozen=True):
    path: str
    step: int


class CallbackView(Struct, frozen=True):
    """Who is told of the task's end and how far that is: `state` is waiting (for the end), due, made or given_up; `status` the last answer's.

    The address stands without what may be secret in it."""

    what: Literal["result", "notice"]
    url: str
    state: Literal["waiting", "due", "made", "given_up"]
    tries: int
    at: Time | None
    next_at: Time | None
    status: int | None
    error: str


class TaskView(Struct, frozen=True, kw_only=True):
    """One task as it stands. Times are null for never; `attempts` counts dispatches, `failures` those that count against `max_attempts`."""

    task_id: str
    name: str
    kind: str
    task_type: str
    state: Phase
    status: Status
    owner: str
    project: str
    labels: dict[str, str]
    priority: int
    parent: str | None
    stage: str | None
    children: tuple[str, ...]
    depends_on: tuple[str, ...]
    waiting_on: tuple[str, ...]
    worker_id: str | None
    attempt: int
    attempts: int
    failures: int
    max_attempts: int
    submitted_at: Time | None
    started_at: Time | None
    ended_at: Time | None
    since: Time | None
    reason: str
    error: ErrorView | None
    not_before: Time | UnsetType | None = UNSET
    shard: ShardView | UnsetType = UNSET
    rows: RowsView | UnsetType = UNSET
    checkpoint: CheckpointView | UnsetType = UNSET
    callbacks: tuple[CallbackView, ...] | UnsetType = UNSET
    expires_at: Time | UnsetType | None = UNSET
    expired_at: Time | UnsetType | None = UNSET
    children_done: int | UnsetType = UNSET
    children_dead_lettered: int | UnsetType = UNSET


class TaskPage(TaskView, frozen=True, kw_only=True):
    """One task with its parts and its spec (null for a pipeline, and where the log has it no more; secrets as `***`)."""

    tasks: tuple[TaskView, ...]
    spec: Any


class AcceptedTask(Struct, frozen=True):
    """The short form of a task in the answer to its submission."""

    task_id: str
    name: str
    status: Status
    state: Phase
    waiting_on: tuple[str, ...]
    depends_on: tuple[str, ...]
    parent: str | None
    stage: str | None


def task_view(cluster: Cluster, task: Task) -> TaskView:
    """One task as it stands."""
    return TaskView(**_fields(cluster, task))


def task_page(cluster: Cluster, task: Task, parts: Sequence[Task], spec: bytes) -> TaskPage:
    """One task with its children and its spec (JSON; empty for none)."""
    return TaskPage(
        **_fields(cluster, task),
        tasks=tuple(task_view(cluster, part) for part in parts),
        spec=masked(msgspec.json.decode(spec)) if spec else None,
    )


def accepted_view(event: TaskSubmitted) -> AcceptedTask:
    """The short form of a new task."""
    waiting = tuple(id for id in event.depends_on if id not in event.met)
    state: Phase = "waiting" if waiting or event.children else "ready"
    return AcceptedTask(event.task, event.name, status_of(state), state, waiting, event.depends_on, event.parent or None, event.stage or None)


def repeated_view(cluster: Cluster, task: Task) -> AcceptedTask:
    """The same short form for a task that the log has already."""
    return AcceptedTask(
        task.id, task.name, status_of(task.phase), task.phase, waiting_on(cluster, task), task.depends_on, task.parent or None, task.stage or None
    )


def error_view(error: Error) -> ErrorView:
    return ErrorView(error.type, error.message, error.retryable)


def callback_view(callback: Callback) -> CallbackView:
    is_due = callback.state == "due"
    return CallbackView(
        callback.receiver.what, MASK if "${" in callback.receiver.url else shown_url(callback.receiver.url),  # type: ignore[arg-type]
        callback.state, callback.tries, iso(callback.at_ms), iso(callback.due_ms) if is_due else None, callback.status or None, callback.error,
    )  # fmt: skip


def told(callback: CallbackView) -> str:
    """One receiver and how far telling it is, in words."""
    named = f"{'result to' if callback.what == 'result' else 'webhook'} {callback.url}"
    tries = f"{callback.tries} {'try' if callback.tries == 1 else 'tries'}"
    match callback.state:
        case "waiting":
            return f"{named} when it ends"
        case "made":
            return f"{named} delivered at {callback.at} ({callback.status}, {tries})"
        case "given_up":
            return f"{named} given up after {tries}: {callback.error}"
    return f"{named} is due" + (f", again at {callback.next_at}; {tries} so far: {callback.error}" if callback.tries else "")


def status_of(phase: Phase) -> Status:
    """The older name of a state."""
    return STATUS[phase]  # type: ignore[return-value]  # the assertion above holds it


def waiting_on(cluster: Cluster, task: Task) -> tuple[str, ...]:
    """Dependencies whose results are not published yet."""
    if task.phase in FINAL or not task.pending:
        return ()
    met = cluster.met.get(task.id, {})
    return tuple(id for id in task.depends_on if id not in met and not _is_published(cluster, id))


def iso(ms: int) -> str | None:
    """A time in ms since 1970 as ISO 8601 with milliseconds; None for 0."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if ms else None


def _fields(cluster: Cluster, task: Task) -> dict[str, Any]:
    return {
        "task_id": task.id, "name": task.name, "kind": task.kind, "task_type": task.task_type or "pipeline",
        "state": task.phase, "status": status_of(task.phase), "owner": task.owner, "project": task.project, "labels": task.labels,
        "priority": task.priority, "parent": task.parent or None, "stage": task.stage or None, "children": task.children,
        "depends_on": task.depends_on, "waiting_on": waiting_on(cluster, task), "worker_id": task.worker or None,
        "attempt": task.current or task.last, "attempts": task.tries, "failures": task.failures, "max_attempts": task.max_attempts,
        "submitted_at": iso(task.submitted_ms), "started_at": iso(task.started_ms), "ended_at": iso(task.ended_ms),
        "since": iso(task.since_ms), "reason": task.reason or cluster.doomed.get(task.id, ""),
        "error": error_view(task.error) if task.error else None,
        "not_before": iso(task.not_before_ms) if task.phase == "backoff" else UNSET,
        "shard": ShardView(*task.shard) if task.shard is not None else UNSET,
        "rows": RowsView(rows_done(task), task.items or None) if task.rows or task.items else UNSET,
        "checkpoint": CheckpointView(task.checkpoint, task.checkpoint_step) if task.checkpoint else UNSET,
        "callbacks": tuple(callback_view(one) for one in task.callbacks) if task.callbacks else UNSET,
        "expires_at": iso(task.since_ms + task.ttl_ms) if task.ttl_ms and task.phase in FINAL and not task.expired_ms else UNSET,
        "expired_at": iso(task.expired_ms) if task.expired_ms else UNSET,
        "children_done": task.done if task.children else UNSET,
        "children_dead_lettered": task.dead if task.children else UNSET,
    }  # fmt: skip


def _is_published(cluster: Cluster, id: str) -> bool:
    task = cluster.tasks.get(id)
    return task is not None and task.phase == "published"
