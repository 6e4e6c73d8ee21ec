"""The fold of the workers' events: registrations with what they adopt and end, losses, drains, switching off and on."""

from __future__ import annotations

from mloc.core import task as tasks
from mloc.core import worker as workers
from mloc.core.cluster import Cluster
from mloc.core.events import WorkerDrainRequested, WorkerElasticChanged, WorkerRegistered
from mloc.core.folds.family_fold import leave_dead_letter
from mloc.core.task import Task
from mloc.core.worker import Attempt, Worker


def register(cluster: Cluster, event: WorkerRegistered, now: int) -> None:
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
        need = task.need if task else None
        memory = need.gpu_memory if need else 0
        attempt = Attempt(held.task, held.attempt, event.worker, event.incarnation, "", held.devices, memory, held.light, started=True)
        cluster.holdings.add(attempt, need)
        if task is None or not _adopt(cluster, task, attempt, now):
            cluster.holdings.mark_unneeded(attempt)


def lose_worker(cluster: Cluster, id: str, incarnation: int, phase: str, reason: str, now: int) -> None:
    worker = current_worker(cluster, id, incarnation)
    if worker is None:
        return
    cluster.workers[id] = workers.gone(worker, "lost" if phase == "lost" else "retired", now)
    for attempt in cluster.holdings.clear(id):
        _orphan(cluster, attempt, reason, now)


def drain(cluster: Cluster, event: WorkerDrainRequested, now: int) -> None:
    worker = cluster.workers.get(event.worker)
    if worker is None:
        return
    cluster.workers[worker.id] = workers.draining(worker, not event.undo, now)
    if not event.undo:
        _take_back_what_has_not_started(cluster, worker)


def switch(cluster: Cluster, event: WorkerElasticChanged, now: int) -> None:
    worker = cluster.workers.get(event.worker)
    if worker is None:
        return
    cluster.workers[worker.id] = workers.switched(worker, event.enabled, now)
    if not event.enabled:
        _take_back_what_has_not_started(cluster, worker)


def current_worker(cluster: Cluster, id: str, incarnation: int) -> Worker | None:
    worker = cluster.workers.get(id)
    return worker if worker is not None and worker.incarnation == incarnation and worker.phase == "alive" else None


def _take_back_what_has_not_started(cluster: Cluster, worker: Worker) -> None:
    for attempt in cluster.holdings.of(worker.id).values():
        if not attempt.started:
            cluster.holdings.mark_unneeded(attempt)


def _adopt(cluster: Cluster, task: Task, attempt: Attempt, now: int) -> bool:
    if not tasks.is_open(task) or task.children or task.phase == "waiting" or attempt.number in task.over:
        return False
    if task.current and (task.current, task.worker) != (attempt.number, attempt.worker):
        return False
    leave_dead_letter(cluster, task, now)
    cluster.retries.pop(task.id, None)
    cluster.put(task, tasks.adopted(task, attempt.number, attempt.worker, attempt.incarnation, now))
    return True


def _orphan(cluster: Cluster, attempt: Attempt, reason: str, now: int) -> None:
    task = cluster.tasks.get(attempt.task)
    if task is not None and task.current == attempt.number and task.worker == attempt.worker and task.phase in tasks.IN_FLIGHT:
        cluster.put(task, tasks.orphaned(task, reason, now))
