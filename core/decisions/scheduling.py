"""The scheduler's `decide`: compares the state with what should be and gives the events that are missing. Pure and level-triggered.

After a crash at any point, folding to the tail and deciding again is right. Folding an answer removes what triggered it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, islice

from msgspec import Struct

from mloc.core import task as tasks
from mloc.core.cluster import Cluster
from mloc.core.decisions import placement, retry
from mloc.core.decisions.dispatch_policy import DEFAULT as DEFAULT_POLICY
from mloc.core.decisions.placement import Room
from mloc.core.events import (
    AttemptLost,
    AttemptRecalled,
    AttemptStopRequested,
    Event,
    Need,
    PolicyChanged,
    TaskCancelled,
    TaskDispatched,
    TaskRequeued,
    TaskSharded,
    TaskTimedOut,
    WorkerLost,
)  # fmt: skip
from mloc.core.sharding import shard_count
from mloc.core.worker import is_silent

MOST_PASSED_OVER = 256  # tasks of one need that wait for a worker of their own are looked at before the next round


class Limits(Struct, frozen=True, gc=False):
    """What bounds a round of decisions, and how workers are to be chosen: the log says it before it is done."""

    heartbeat_ttl_ms: int = 120_000
    grace_sec: float = 10.0  # from the request to stop to the kill
    max_answers: int = 256
    dispatch_policy: str = DEFAULT_POLICY


def decide(cluster: Cluster, now_ms: int, seen_ms: Mapping[str, int], limits: Limits) -> list[Event]:
    """At most `limits.max_answers` events for the state as it is. `seen_ms` has each worker's last sign of life, by the server's clock."""
    lost = {
        worker.id: silent_ms
        for worker in cluster.workers.values()
        if worker.phase == "alive" and worker.id in seen_ms
        and is_silent(worker, silent_ms := now_ms - seen_ms[worker.id], limits.heartbeat_ttl_ms)
    }
    changes = list(_policy_changes(cluster, limits))
    answers = chain(
        changes,
        (WorkerLost(worker=id, incarnation=cluster.workers[id].incarnation, silent_ms=silent) for id, silent in lost.items()),
        _cancellations(cluster),
        _time_outs(cluster, now_ms),
        _requeues(cluster),
        _recalls_and_stops(cluster, lost, limits),
        () if changes else _dispatches(cluster, now_ms, lost),
    )
    return list(islice(answers, limits.max_answers))


def _cancellations(cluster: Cluster) -> Iterator[Event]:
    for id, reason in cluster.doomed.items():
        task = cluster.tasks.get(id)
        if task is not None and tasks.is_open(task):
            yield TaskCancelled(task=id, reason=reason)


def _time_outs(cluster: Cluster, now_ms: int) -> Iterator[Event]:
    for task in cluster.due_deadlines(now_ms):
        if task.id not in cluster.doomed:
            yield TaskTimedOut(task=task.id, attempt=task.current, timeout_sec=task.timeout_sec)


def _requeues(cluster: Cluster) -> Iterator[Event]:
    for id in cluster.phase("orphaned"):
        task = cluster.tasks[id]
        if id not in cluster.doomed:
            yield AttemptLost(task=id, attempt=task.current, worker=task.worker, incarnation=task.incarnation, reason=task.reason)
    for id in cluster.phase("lost"):
        task = cluster.tasks[id]
        if id not in cluster.doomed:
            yield TaskRequeued(task=id, attempt=task.last, reason=task.reason)
    for id in cluster.phase("failed"):
        if id not in cluster.doomed:
            yield retry.after_failure(cluster.tasks[id])
    for id in cluster.retries:
        task = cluster.tasks[id]
        if task.phase == "dead_lettered" and id not in cluster.doomed:
            yield TaskRequeued(task=id, attempt=task.last, reason=f"retry asked for by {task.retry_by}")


def _recalls_and_stops(cluster: Cluster, lost: Mapping[str, int], limits: Limits) -> Iterator[Event]:
    for (task, number), worker in cluster.holdings.unneeded.items():
        attempt = cluster.holdings.find(worker, (task, number))
        if attempt is None or worker in lost or attempt.stop_asked:
            continue
        if attempt.started:
            yield AttemptStopRequested(
                task=task, attempt=number, worker=worker, incarnation=attempt.incarnation, reason=_why_stop(cluster, task), grace_sec=limits.grace_sec
            )
        else:
            yield AttemptRecalled(task=task, attempt=number, worker=worker, incarnation=attempt.incarnation, cause=attempt.entry_id)


def _why_stop(cluster: Cluster, id: str) -> str:
    task = cluster.tasks.get(id)
    if task is None:
        return "the task is not known any more"
    return task.reason or f"the task is {task.phase} without this attempt"


def _policy_changes(cluster: Cluster, limits: Limits) -> Iterator[Event]:
    if limits.dispatch_policy != (cluster.dispatch_policy or DEFAULT_POLICY):
        yield PolicyChanged(dispatch=limits.dispatch_policy, by="scheduler")


def _dispatches(cluster: Cluster, now_ms: int, lost: Mapping[str, int]) -> Iterator[Event]:
    rule = placement.rule_of(cluster)
    passed_over: Counter[Need] = Counter()
    rooms = {w.id: Room(cluster, w) for w in cluster.workers.values() if w.phase == "alive" and w.id not in lost}
    fitting: dict[Need, list[str]] = {}
    closed: set[Need] = set()
    for task in chain(list(cluster.due_backoffs(now_ms)), cluster.ready.in_order(cluster.tasks, closed)):
        need = task.need
        if need is None or task.id in cluster.doomed or need in closed:
            continue
        if need not in fitting:
            fitting[need] = [id for id, room in rooms.items() if not placement.misfit(cluster, room.worker, need)]
        place = placement.choose(rooms, fitting[need], task, rule)
        if place is None:
            passed_over[need] += 1
            if not rule.is_pinned or passed_over[need] >= MOST_PASSED_OVER or not any(rooms[id].has_room(need) for id in fitting[need]):
                closed.add(need)
            if need.gpus:
                placement.keep_for(rooms, fitting[need], task, rule)
        elif task.parallel is not None and task.phase == "ready":
            free = sum(rooms[id].has_room(need) for id in fitting[need])
            yield TaskSharded(task=task.id, count=shard_count(task.parallel, task.items, free), items=task.items)
        else:
            room = rooms[place.worker]
            room.take(need, place.devices, joins=place.joins)
            rule = rule.after(place.worker)
            yield TaskDispatched(
                task=task.id, attempt=cluster.next_attempt(task), worker=place.worker, incarnation=room.worker.incarnation,
                devices=place.devices, joins=place.joins,
            )
