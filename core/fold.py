"""`evolve`: one event's effect on the cluster state. Total and pure of clocks: an event that no longer fits is void and changes no task.

A void dispatch still uses up its attempt number and holds its devices, because the worker may start it already; the scheduler then takes
it back. Every reader folds the same order, so every reader has the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never, cast

from msgspec.structs import replace

from mloc.core import log_ids
from mloc.core import task as tasks
from mloc.core import worker as workers
from mloc.core.cluster import Cluster
from mloc.core.codec import UnknownEvent
from mloc.core.decisions.expiry import expire
from mloc.core.events import (
    AnyEvent,
    ArtifactStored,
    AttemptFailed,
    AttemptLost,
    AttemptRecalled,
    AttemptStarted,
    AttemptStopped,
    AttemptStopRequested,
    AttemptSucceeded,
    CallbackFailed,
    CallbackMade,
    CancelRequested,
    CheckpointSaved,
    EngineReady,
    EngineSlept,
    EngineWoke,
    Event,
    FoldVersionActivated,
    LeaderElected,
    LogStarted,
    PolicyChanged,
    ResultExpired,
    ResultPublished,
    RetryRequested,
    RowsCompleted,
    ServerRestarted,
    TaskCancelled,
    TaskDeadLettered,
    TaskDispatched,
    TaskPriorityChanged,
    TaskRequeued,
    TaskSharded,
    TaskSubmitted,
    TaskTimedOut,
    WorkerDrainRequested,
    WorkerElasticChanged,
    WorkerLost,
    WorkerRegistered,
    WorkerRetired,
)
from mloc.core.folds.attempt_fold import current_task, dead_letter, dispatch, end_without_verdict, fail, lose_attempt, requeue, start, succeed
from mloc.core.folds.callback_fold import called
from mloc.core.folds.family_fold import count_ended_child, end_without_result, meet_dependency, past, shard
from mloc.core.folds.worker_fold import current_worker, drain, lose_worker, register, switch


def evolve(cluster: Cluster, id: str, event: Event | UnknownEvent) -> None:
    """Fold the entry `id` into the state."""
    now = log_ids.time_ms(id)
    if (often := _OFTEN.get(type(event))) is not None:
        often(cluster, id, event, now)
    else:
        _evolve_seldom(cluster, cast(AnyEvent | UnknownEvent, event), now)
    cluster.position = id


def _evolve_seldom(cluster: Cluster, event: AnyEvent | UnknownEvent, now: int) -> None:
    """The type checker refuses an event of `AnyEvent` that has no case here."""
    match event:
        case AttemptFailed():
            fail(cluster, event, now)
        case AttemptStopped() | AttemptRecalled():
            end_without_verdict(cluster, event, now)
        case AttemptLost():
            lose_attempt(cluster, event, now)
        case TaskRequeued():
            requeue(cluster, event, now)
        case TaskSharded():
            shard(cluster, event, now)
        case TaskDeadLettered():
            dead_letter(cluster, event, now)
        case TaskTimedOut():
            if (task := cluster.tasks.get(event.task)) and task.phase == "running" and task.current == event.attempt:
                end_without_result(cluster, task, tasks.timed_out(task, now), now, "timed out")
        case TaskCancelled():
            if (task := cluster.tasks.get(event.task)) and tasks.is_open(task):
                end_without_result(cluster, task, tasks.cancelled(task, event.reason, now), now, "was cancelled")
        case CancelRequested():
            if (task := cluster.tasks.get(event.task)) and tasks.is_open(task):
                cluster.doomed.setdefault(task.id, event.reason or f"cancelled by {event.by or 'a person'}")
        case RetryRequested():
            _request_retry(cluster, event)
        case TaskPriorityChanged():
            _change_priority(cluster, event)
        case AttemptStopRequested():
            attempt = cluster.holdings.find(event.worker, (event.task, event.attempt))
            if attempt is not None and attempt.incarnation == event.incarnation:
                cluster.holdings.mark_stop_asked(attempt)
        case RowsCompleted():
            if task := current_task(cluster, event):
                cluster.put(task, replace(task, rows=task.rows + event.rows))
        case CheckpointSaved():
            if (task := cluster.tasks.get(event.task)) and tasks.is_open(task) and event.step >= task.checkpoint_step:
                cluster.put(task, replace(task, checkpoint=event.path, checkpoint_step=event.step))
        case ArtifactStored():
            if task := cluster.tasks.get(event.task):
                cluster.put(task, tasks.with_stored(task, event))
        case CallbackMade() | CallbackFailed():
            called(cluster, event, now)
        case ResultExpired():
            expire(cluster, event, now)
        case WorkerRegistered():
            register(cluster, event, now)
        case WorkerLost():
            lose_worker(cluster, event.worker, event.incarnation, "lost", "its worker gave no sign of life", now)
        case WorkerRetired():
            lose_worker(cluster, event.worker, event.incarnation, "retired", "its worker stopped", now)
        case WorkerDrainRequested():
            drain(cluster, event, now)
        case WorkerElasticChanged():
            switch(cluster, event, now)
        case EngineReady():
            if worker := current_worker(cluster, event.worker, event.incarnation):
                cluster.workers[worker.id] = workers.warmed(worker, event.engine, event.load_sec, event.takes_several)
        case EngineWoke():
            if worker := current_worker(cluster, event.worker, event.incarnation):
                cluster.workers[worker.id] = workers.warmed(worker, event.engine, event.seconds, event.takes_several)
        case EngineSlept():
            if worker := current_worker(cluster, event.worker, event.incarnation):
                cluster.workers[worker.id] = workers.cooled(worker, event.engine, event.seconds, event.asleep)
        case LogStarted():
            cluster.log_id, cluster.run_id, cluster.first_ms = event.log_id, event.run_id, now
        case ServerRestarted():
            # numbers that a lost tail may have used are left out: milliseconds since the log began only grow
            cluster.run_id = event.run_id
            cluster.attempt_base = max(cluster.attempt_base + 1, now - cluster.first_ms)
        case PolicyChanged():
            cluster.dispatch_policy = event.dispatch or cluster.dispatch_policy
        case UnknownEvent():
            cluster.unknown += 1
        case LeaderElected() | FoldVersionActivated():
            pass
        case TaskSubmitted() | TaskDispatched() | AttemptStarted() | AttemptSucceeded() | ResultPublished():
            raise AssertionError("it is one of _OFTEN")
        case _:
            assert_never(event)


def _submit(cluster: Cluster, id: str, event: TaskSubmitted, now: int) -> None:
    if event.task in cluster.tasks:
        return
    cluster.submissions += 1
    pending = 0
    for dependency in event.depends_on:
        known = cluster.tasks.get(dependency)
        if (known is None or known.phase != "published") and dependency not in event.met:
            pending += 1
        if known is not None and known.phase in ("cancelled", "timed_out"):
            cluster.doomed[event.task] = f"it depends on {dependency}, which {past(known.phase)}"
    task = tasks.submitted(event, cluster.submissions, pending, now)
    cluster.put(None, task)
    if task.depends_on:
        cluster.link(task)
        if event.met:
            cluster.met[task.id] = event.met
    if not task.children:
        cluster.specs[task.id] = bytes(event.spec)
    parent = cluster.tasks.get(task.parent) if task.parent else None
    if parent is not None and parent.phase in ("cancelled", "timed_out"):
        cluster.doomed[task.id] = f"its pipeline {past(parent.phase)}"


def _publish(cluster: Cluster, id: str, event: ResultPublished, now: int) -> None:
    task = cluster.tasks.get(event.task)
    if task is None or task.phase != "succeeded":
        return
    if task.children:
        task_with_result = replace(task, result_id=id, result_inline=bool(event.result), result_files=event.files or not event.result)
    else:
        task_with_result = task
    cluster.put(task, tasks.published(task_with_result, now))
    for id_ in cluster.dependants.get(task.id, ()):
        meet_dependency(cluster, id_, now)
    if task.parent:
        count_ended_child(cluster, task, now, published=True)


def _request_retry(cluster: Cluster, event: RetryRequested) -> None:
    task = cluster.tasks.get(event.task)
    if task is None or task.phase != "dead_lettered":
        return
    for child_id in task.children:
        _request_retry(cluster, replace(event, task=child_id))
    if not task.children:
        cluster.put(task, replace(task, retry_by=event.by or "a person"))
        cluster.retries[task.id] = None


def _change_priority(cluster: Cluster, event: TaskPriorityChanged) -> None:
    task = cluster.tasks.get(event.task)
    if task is None or task.phase in tasks.FINAL:
        return
    cluster.put(task, replace(task, priority=event.priority))
    for child in task.children:
        _change_priority(cluster, replace(event, task=child))


# What happens to every task; a look here costs less than the walk down a match.
_OFTEN: dict[type, Callable[[Cluster, str, Any, int], None]] = {
    TaskSubmitted: _submit, TaskDispatched: dispatch, AttemptStarted: start, AttemptSucceeded: succeed, ResultPublished: _publish,
}  # fmt: skip
