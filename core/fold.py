"""`evolve`: one event's effect on the cluster state. Total and pure of clocks: an event that no longer fits is void and changes no task.

A void dispatch still uses up its attempt number and holds its devices, because the worker may start it already; the scheduler then takes
it back. Every reader folds the same order, so every reader has the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from mloc.core import log_ids
from mloc.core import task as tasks
from mloc.core import worker as workers
from mloc.core.cluster import Cluster
from mloc.core.codec import UnknownEvent
from mloc.core.events import (
    AttemptFailed,
    AttemptLost,
    AttemptRecalled,
    AttemptStarted,
    AttemptStopped,
    AttemptStopRequested,
    AttemptSucceeded,
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
    WorkerLost,
    WorkerRegistered,
    WorkerRetired,
)  # fmt: skip
from mloc.core.task import Task
from mloc.core.worker import Attempt, Worker


def evolve(cluster: Cluster, id: str, event: Event | UnknownEvent) -> None:
    """Fold the entry `id` into the state."""
    now = log_ids.time_ms(id)
    if (often := _OFTEN.get(type(event))) is not None:
        often(cluster, id, event, now)
    else:
        _evolve_seldom(cluster, event, now)
    cluster.position = id


def _evolve_seldom(cluster: Cluster, event: Event | UnknownEvent, now: int) -> None:
    match event:
        case AttemptFailed():
            _fail(cluster, event, now)
        case AttemptStopped() | AttemptRecalled():
            _end_without_verdict(cluster, event, now)
        case AttemptLost():
            _lose_attempt(cluster, event, now)
        case TaskRequeued():
            _requeue(cluster, event, now)
        case TaskSharded():
            _shard(cluster, event, now)
        case TaskDeadLettered():
            _dead_letter(cluster, event, now)
        case TaskTimedOut():
            if (task := cluster.tasks.get(event.task)) and task.phase == "running" and task.current == event.attempt:
                _end(cluster, task, tasks.timed_out(task, now), now, "timed out")
        case TaskCancelled():
            if (task := cluster.tasks.get(event.task)) and tasks.is_open(task):
                _end(cluster, task, tasks.cancelled(task, event.reason, now), now, "was cancelled")
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
            if task := _current_task(cluster, event):
                cluster.put(task, replace(task, rows=task.rows + event.rows))
        case CheckpointSaved():
            if (task := cluster.tasks.get(event.task)) and tasks.is_open(task) and event.step >= task.checkpoint_step:
                cluster.put(task, replace(task, checkpoint=event.path, checkpoint_step=event.step))
        case WorkerRegistered():
            _register(cluster, event, now)
        case WorkerLost():
            _lose_worker(cluster, event.worker, event.incarnation, "lost", "its worker gave no sign of life", now)
        case WorkerRetired():
            _lose_worker(cluster, event.worker, event.incarnation, "retired", "its worker stopped", now)
        case WorkerDrainRequested():
            _drain(cluster, event, now)
        case EngineReady() | EngineWoke():
            if worker := _current_worker(cluster, event.worker, event.incarnation):
                cluster.workers[worker.id] = workers.warmed(worker, event.engine)
        case EngineSlept():
            if worker := _current_worker(cluster, event.worker, event.incarnation):
                cluster.workers[worker.id] = workers.cooled(worker, event.engine)
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


# --- tasks ---


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
            cluster.doomed[event.task] = f"it depends on {dependency}, which {_past(known.phase)}"
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
        cluster.doomed[task.id] = f"its pipeline {_past(parent.phase)}"


def _shard(cluster: Cluster, event: TaskSharded, now: int) -> None:
    task = cluster.tasks.get(event.task)
    if task is None or task.phase != "ready" or event.count < 1:
        return
    shards = [tasks.shard_of(task, index, event.count, now) for index in range(event.count)]
    parent = replace(task, phase="running", since_ms=now, started_ms=now, children=tuple(shard.id for shard in shards))
    cluster.put(task, parent)
    for shard in shards:
        cluster.put(None, shard)


def _dispatch(cluster: Cluster, id: str, event: TaskDispatched, now: int) -> None:
    task = cluster.tasks.get(event.task)
    worker = _current_worker(cluster, event.worker, event.incarnation)
    fits = task is not None and task.phase in tasks.PLACEABLE and event.attempt > task.last and worker is not None
    if worker is not None and cluster.holdings.find(worker.id, (event.task, event.attempt)) is None:
        need = task.need if task else None
        attempt = Attempt(
            event.task, event.attempt, event.worker, event.incarnation, id, event.devices,
            need.gpu_memory if need else 0, need.light if need else False,
        )  # fmt: skip
        cluster.holdings.add(attempt)
        if not fits or worker.draining:
            cluster.holdings.mark_unneeded(attempt)
    if task is not None and fits:
        if task.parent:
            _touch_parent(cluster, task, now)
        cluster.put(task, tasks.dispatched(task, event.attempt, event.worker, event.incarnation, now))
    elif task is not None:
        cluster.put(task, tasks.used_up(task, event.attempt))


def _start(cluster: Cluster, id: str, event: AttemptStarted, now: int) -> None:
    attempt = cluster.holdings.find(event.worker, (event.task, event.attempt))
    if attempt is None or attempt.incarnation != event.incarnation:
        return
    cluster.holdings.mark_started(attempt)
    task = cluster.tasks.get(event.task)
    if task is not None and task.phase == "dispatched" and task.current == event.attempt:
        cluster.put(task, tasks.started(task, now))


def _succeed(cluster: Cluster, id: str, event: AttemptSucceeded, now: int) -> None:
    cluster.holdings.remove(event.worker, (event.task, event.attempt))
    task = cluster.tasks.get(event.task)
    if task is None or not tasks.is_open(task) or task.children:
        return
    mean = cluster.mean_ms.get(task.task_type)
    cluster.mean_ms[task.task_type] = event.duration_ms if mean is None else mean * 0.9 + event.duration_ms * 0.1
    if task.current != event.attempt:
        _release_other_attempt(cluster, task, event.attempt)
    inline = bool(event.result)
    _leave_dead_letter(cluster, task, now)
    cluster.doomed.pop(task.id, None)
    cluster.retries.pop(task.id, None)
    cluster.put(task, tasks.succeeded(task, event.attempt, event.worker, id, inline, event.files or not inline, now))


def _fail(cluster: Cluster, event: AttemptFailed, now: int) -> None:
    cluster.holdings.remove(event.worker, (event.task, event.attempt))
    _mark_over(cluster, event)
    if task := _current_task(cluster, event):
        cluster.put(task, tasks.failed(task, event.error, now))


def _end_without_verdict(cluster: Cluster, event: AttemptStopped | AttemptRecalled, now: int) -> None:
    cluster.holdings.remove(event.worker, (event.task, event.attempt))
    _mark_over(cluster, event)
    if task := _current_task(cluster, event):
        reason = event.reason if isinstance(event, AttemptStopped) else "taken back before it started"
        cluster.put(task, tasks.lost(task, reason or "its attempt was stopped", now))


def _mark_over(cluster: Cluster, event: AttemptFailed | AttemptStopped | AttemptRecalled) -> None:
    task = cluster.tasks.get(event.task)
    if task is not None and tasks.is_open(task):
        cluster.put(task, tasks.over(task, event.attempt))


def _lose_attempt(cluster: Cluster, event: AttemptLost, now: int) -> None:
    task = cluster.tasks.get(event.task)
    if task is not None and task.phase == "orphaned" and task.current == event.attempt:
        cluster.put(task, tasks.lost(task, event.reason or task.reason, now))


def _requeue(cluster: Cluster, event: TaskRequeued, now: int) -> None:
    task = cluster.tasks.get(event.task)
    if task is None or not (task.phase in ("failed", "lost") or (task.phase == "dead_lettered" and task.retry_by)) or task.children:
        return
    _leave_dead_letter(cluster, task, now)
    cluster.retries.pop(task.id, None)
    cluster.put(task, tasks.requeued(task, event.reason, event.delay_ms, now))


def _dead_letter(cluster: Cluster, event: TaskDeadLettered, now: int) -> None:
    task = cluster.tasks.get(event.task)
    if task is None or task.phase != "failed":
        return
    cluster.put(task, tasks.dead_lettered(task, event.error, now))
    parent = cluster.tasks.get(task.parent)
    while parent is not None and tasks.is_open(parent):
        held = replace(parent, dead=parent.dead + 1)
        cluster.put(parent, tasks.dead_lettered(held, event.error, now, f"{task.id}: {event.error.message}"))
        parent = cluster.tasks.get(parent.parent)


def _leave_dead_letter(cluster: Cluster, task: Task, now: int) -> None:
    """A dead-lettered child goes on: its parents go on as well once no child is dead-lettered."""
    if task.phase != "dead_lettered":
        return
    parent = cluster.tasks.get(task.parent)
    while parent is not None and tasks.is_open(parent):
        dead = parent.dead - (task.dead or 1)
        freed = replace(parent, dead=dead)
        if dead == 0:
            freed = replace(freed, phase="running", since_ms=now, reason="", error=None)
        cluster.put(parent, freed)
        parent = cluster.tasks.get(parent.parent)


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
        _meet(cluster, id_, now)
    if task.parent:
        _count_ended_child(cluster, task, now, published=True)


def _meet(cluster: Cluster, dependant_id: str, now: int) -> None:
    dependant = cluster.tasks.get(dependant_id)
    if dependant is None or not dependant.pending or dependant.phase in tasks.FINAL:
        return
    waiting = replace(dependant, pending=dependant.pending - 1)
    if waiting.pending == 0 and waiting.phase == "waiting" and not waiting.children:
        waiting = tasks.ready(waiting, now)
    cluster.put(dependant, waiting)


def _end(cluster: Cluster, task: Task, ended: Task, now: int, how: str) -> None:
    """A task ends without a result: its attempts are not needed, its children and dependants are doomed."""
    _release_other_attempt(cluster, task, 0)
    _leave_dead_letter(cluster, task, now)
    cluster.put(task, ended)
    for child_id in task.children:
        child = cluster.tasks.get(child_id)
        if child is not None and tasks.is_open(child):
            cluster.doomed.setdefault(child_id, f"{task.id} {how}")
    for id in cluster.dependants.get(task.id, ()):
        dependant = cluster.tasks.get(id)
        if dependant is not None and tasks.is_open(dependant):
            cluster.doomed.setdefault(id, f"it depends on {task.id}, which {how}")
    _count_ended_child(cluster, ended, now, published=False)


def _count_ended_child(cluster: Cluster, child: Task, now: int, *, published: bool) -> None:
    parent = cluster.tasks.get(child.parent)
    if parent is None or not tasks.is_open(parent):
        return
    counted = replace(parent, done=parent.done + published, ended=parent.ended + 1)
    if counted.done == len(counted.children):
        counted = replace(counted, phase="succeeded", since_ms=now, ended_ms=now, result_attempt=0)
    elif counted.ended == len(counted.children) or (child.shard and not published):
        cluster.doomed.setdefault(parent.id, f"{child.id} {_past(child.phase)}")
    cluster.put(parent, counted)


def _touch_parent(cluster: Cluster, task: Task, now: int) -> None:
    parent = cluster.tasks.get(task.parent)
    if parent is not None and parent.phase == "waiting":
        cluster.put(parent, replace(parent, phase="running", since_ms=now, started_ms=now))


def _release_other_attempt(cluster: Cluster, task: Task, finished: int) -> None:
    """The task's attempt that runs elsewhere is not needed any more."""
    if task.current and task.current != finished:
        attempt = cluster.holdings.find(task.worker, (task.id, task.current))
        if attempt is not None:
            cluster.holdings.mark_unneeded(attempt)


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


# --- workers ---


def _register(cluster: Cluster, event: WorkerRegistered, now: int) -> None:
    before = cluster.workers.get(event.worker)
    if before is not None and event.incarnation <= before.incarnation:
        return
    cluster.workers[event.worker] = workers.registered(before, event, now)
    listed = {(held.task, held.attempt) for held in event.attempts}
    for attempt in cluster.holdings.clear(event.worker):
        if (attempt.task, attempt.number) not in listed:
            _orphan(cluster, attempt, "its worker started again without it", now)
    for held in event.attempts:
        task = cluster.tasks.get(held.task)
        memory = task.need.gpu_memory if task and task.need else 0
        attempt = Attempt(held.task, held.attempt, event.worker, event.incarnation, "", held.devices, memory, held.light, started=True)
        cluster.holdings.add(attempt)
        if task is None or not _adopt(cluster, task, attempt, now):
            cluster.holdings.mark_unneeded(attempt)


def _adopt(cluster: Cluster, task: Task, attempt: Attempt, now: int) -> bool:
    if not tasks.is_open(task) or task.children or task.phase == "waiting" or attempt.number in task.over:
        return False
    if task.current and (task.current, task.worker) != (attempt.number, attempt.worker):
        return False
    _leave_dead_letter(cluster, task, now)
    cluster.retries.pop(task.id, None)
    cluster.put(task, tasks.adopted(task, attempt.number, attempt.worker, attempt.incarnation, now))
    return True


def _lose_worker(cluster: Cluster, id: str, incarnation: int, phase: str, reason: str, now: int) -> None:
    worker = _current_worker(cluster, id, incarnation)
    if worker is None:
        return
    cluster.workers[id] = workers.gone(worker, "lost" if phase == "lost" else "retired", now)
    for attempt in cluster.holdings.clear(id):
        _orphan(cluster, attempt, reason, now)


def _orphan(cluster: Cluster, attempt: Attempt, reason: str, now: int) -> None:
    task = cluster.tasks.get(attempt.task)
    if task is not None and task.current == attempt.number and task.worker == attempt.worker and task.phase in tasks.IN_FLIGHT:
        cluster.put(task, tasks.orphaned(task, reason, now))


def _drain(cluster: Cluster, event: WorkerDrainRequested, now: int) -> None:
    worker = cluster.workers.get(event.worker)
    if worker is None:
        return
    cluster.workers[worker.id] = workers.draining(worker, not event.undo, now)
    if not event.undo:
        for attempt in cluster.holdings.of(worker.id).values():
            if not attempt.started:
                cluster.holdings.mark_unneeded(attempt)


def _current_worker(cluster: Cluster, id: str, incarnation: int) -> Worker | None:
    worker = cluster.workers.get(id)
    return worker if worker is not None and worker.incarnation == incarnation and worker.phase == "alive" else None


def _current_task(cluster: Cluster, event: RowsCompleted | AttemptFailed | AttemptStopped | AttemptRecalled) -> Task | None:
    """The task, if this attempt is the one that it has in flight."""
    task = cluster.tasks.get(event.task)
    if task is None or task.current != event.attempt or task.worker != event.worker or not tasks.is_open(task):
        return None
    return task


def _past(phase: str) -> str:
    return "timed out" if phase == "timed_out" else "was cancelled"


# What happens to every task; a look here costs less than the walk down a match.
_OFTEN: dict[type, Callable[[Cluster, str, Any, int], None]] = {
    TaskSubmitted: _submit, TaskDispatched: _dispatch, AttemptStarted: _start, AttemptSucceeded: _succeed, ResultPublished: _publish,
}  # fmt: skip
