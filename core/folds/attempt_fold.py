"""The fold of the attempts' events: dispatched, started, ended, lost, put back or left to a person."""

from __future__ import annotations

from msgspec.structs import replace

from mloc.core import task as tasks
from mloc.core.cluster import Cluster
from mloc.core.decisions.dispatch_policy import ROUND_ROBIN
from mloc.core.events import (
    AttemptFailed,
    AttemptLost,
    AttemptRecalled,
    AttemptStarted,
    AttemptStopped,
    AttemptSucceeded,
    RowsCompleted,
    TaskDeadLettered,
    TaskDispatched,
    TaskRequeued,
)
from mloc.core.folds.family_fold import leave_dead_letter, release_other_attempt, touch_parent
from mloc.core.folds.worker_fold import current_worker
from mloc.core.task import Task
from mloc.core.worker import Attempt


def dispatch(cluster: Cluster, id: str, event: TaskDispatched, now: int) -> None:
    task = cluster.tasks.get(event.task)
    worker = current_worker(cluster, event.worker, event.incarnation)
    fits = task is not None and task.phase in tasks.PLACEABLE and event.attempt > task.last and worker is not None
    if worker is not None and cluster.holdings.find(worker.id, (event.task, event.attempt)) is None:
        need = task.need if task else None
        attempt = Attempt(
            event.task, event.attempt, event.worker, event.incarnation, id, event.devices,
            need.gpu_memory if need else 0, need.light if need else False,
        )  # fmt: skip
        cluster.holdings.add(attempt, need)
        if not fits or worker.draining:
            cluster.holdings.mark_unneeded(attempt)
    if cluster.dispatch_policy == ROUND_ROBIN:
        cluster.last_worker = event.worker
    if task is not None and fits:
        if task.parent:
            touch_parent(cluster, task, now)
        cluster.put(task, tasks.dispatched(task, event.attempt, event.worker, event.incarnation, now))
    elif task is not None:
        cluster.put(task, tasks.used_up(task, event.attempt))


def start(cluster: Cluster, id: str, event: AttemptStarted, now: int) -> None:
    attempt = cluster.holdings.find(event.worker, (event.task, event.attempt))
    if attempt is None or attempt.incarnation != event.incarnation:
        return
    cluster.holdings.mark_started(attempt)
    task = cluster.tasks.get(event.task)
    if task is not None and task.phase == "dispatched" and task.current == event.attempt:
        cluster.put(task, tasks.started(task, now))


def succeed(cluster: Cluster, id: str, event: AttemptSucceeded, now: int) -> None:
    cluster.holdings.remove(event.worker, (event.task, event.attempt))
    task = cluster.tasks.get(event.task)
    if task is None or not tasks.is_open(task) or task.children:
        return
    mean = cluster.mean_ms.get(task.task_type)
    cluster.mean_ms[task.task_type] = event.duration_ms if mean is None else mean * 0.9 + event.duration_ms * 0.1
    if task.current != event.attempt:
        release_other_attempt(cluster, task, event.attempt)
    inline = bool(event.result)
    leave_dead_letter(cluster, task, now)
    cluster.doomed.pop(task.id, None)
    cluster.retries.pop(task.id, None)
    counted = tasks.with_rows_answered(task, event.usage.get("num_requests"))
    cluster.put(task, tasks.succeeded(counted, event.attempt, event.worker, id, inline, event.files or not inline, now))


def fail(cluster: Cluster, event: AttemptFailed, now: int) -> None:
    cluster.holdings.remove(event.worker, (event.task, event.attempt))
    _mark_over(cluster, event)
    if task := current_task(cluster, event):
        cluster.put(task, tasks.failed(task, event.error, now))


def end_without_verdict(cluster: Cluster, event: AttemptStopped | AttemptRecalled, now: int) -> None:
    cluster.holdings.remove(event.worker, (event.task, event.attempt))
    _mark_over(cluster, event)
    if task := current_task(cluster, event):
        reason = event.reason if isinstance(event, AttemptStopped) else "taken back before it started"
        cluster.put(task, tasks.lost(task, reason or "its attempt was stopped", now))


def lose_attempt(cluster: Cluster, event: AttemptLost, now: int) -> None:
    task = cluster.tasks.get(event.task)
    if task is not None and task.phase == "orphaned" and task.current == event.attempt:
        cluster.put(task, tasks.lost(task, event.reason or task.reason, now))


def requeue(cluster: Cluster, event: TaskRequeued, now: int) -> None:
    task = cluster.tasks.get(event.task)
    if task is None or not (task.phase in ("failed", "lost") or (task.phase == "dead_lettered" and task.retry_by)) or task.children:
        return
    leave_dead_letter(cluster, task, now)
    cluster.retries.pop(task.id, None)
    cluster.put(task, tasks.requeued(task, event.reason, event.delay_ms, now))


def dead_letter(cluster: Cluster, event: TaskDeadLettered, now: int) -> None:
    task = cluster.tasks.get(event.task)
    if task is None or task.phase != "failed":
        return
    cluster.put(task, tasks.dead_lettered(task, event.error, now))
    parent = cluster.tasks.get(task.parent)
    while parent is not None and tasks.is_open(parent):
        held = replace(parent, dead=parent.dead + 1)
        cluster.put(parent, tasks.dead_lettered(held, event.error, now, f"{task.id}: {event.error.message}"))
        parent = cluster.tasks.get(parent.parent)


def _mark_over(cluster: Cluster, event: AttemptFailed | AttemptStopped | AttemptRecalled) -> None:
    task = cluster.tasks.get(event.task)
    if task is not None and tasks.is_open(task):
        cluster.put(task, tasks.over(task, event.attempt))


def current_task(cluster: Cluster, event: RowsCompleted | AttemptFailed | AttemptStopped | AttemptRecalled) -> Task | None:
    """The task, if this attempt is the one that it has in flight."""
    task = cluster.tasks.get(event.task)
    if task is None or task.current != event.attempt or task.worker != event.worker or not tasks.is_open(task):
        return None
    return task
