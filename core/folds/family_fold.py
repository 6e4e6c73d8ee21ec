"""The fold of what one task's event means for others: parents, children, dependants, an attempt that is not needed any more."""

from __future__ import annotations

from msgspec.structs import replace

from mloc.core import task as tasks
from mloc.core.cluster import Cluster
from mloc.core.events import TaskSharded
from mloc.core.task import Task


def shard(cluster: Cluster, event: TaskSharded, now: int) -> None:
    task = cluster.tasks.get(event.task)
    if task is None or task.phase != "ready" or event.count < 1:
        return
    shards = [tasks.shard_of(task, index, event.count, now) for index in range(event.count)]
    parent = replace(task, phase="running", since_ms=now, started_ms=now, children=tuple(shard.id for shard in shards))
    cluster.put(task, parent)
    for shard in shards:
        cluster.put(None, shard)


def touch_parent(cluster: Cluster, task: Task, now: int) -> None:
    parent = cluster.tasks.get(task.parent)
    if parent is not None and parent.phase == "waiting":
        cluster.put(parent, replace(parent, phase="running", since_ms=now, started_ms=now))


def meet_dependency(cluster: Cluster, dependant_id: str, now: int) -> None:
    dependant = cluster.tasks.get(dependant_id)
    if dependant is None or not dependant.pending or dependant.phase in tasks.FINAL:
        return
    waiting = replace(dependant, pending=dependant.pending - 1)
    if waiting.pending == 0 and waiting.phase == "waiting" and not waiting.children:
        waiting = tasks.ready(waiting, now)
    cluster.put(dependant, waiting)


def end_without_result(cluster: Cluster, task: Task, ended: Task, now: int, how: str) -> None:
    """A task ends without a result: its attempts are not needed, its children and dependants are doomed."""
    release_other_attempt(cluster, task, 0)
    leave_dead_letter(cluster, task, now)
    cluster.put(task, ended)
    for child_id in task.children:
        child = cluster.tasks.get(child_id)
        if child is not None and tasks.is_open(child):
            cluster.doomed.setdefault(child_id, f"{task.id} {how}")
    for id in cluster.dependants.get(task.id, ()):
        dependant = cluster.tasks.get(id)
        if dependant is not None and tasks.is_open(dependant):
            cluster.doomed.setdefault(id, f"it depends on {task.id}, which {how}")
    count_ended_child(cluster, ended, now, published=False)


def count_ended_child(cluster: Cluster, child: Task, now: int, *, published: bool) -> None:
    parent = cluster.tasks.get(child.parent)
    if parent is None or not tasks.is_open(parent):
        return
    counted = replace(parent, done=parent.done + published, ended=parent.ended + 1)
    if counted.done == len(counted.children):
        counted = replace(counted, phase="succeeded", since_ms=now, ended_ms=now, result_attempt=0)
    elif counted.ended == len(counted.children) or (child.shard and not published):
        cluster.doomed.setdefault(parent.id, f"{child.id} {past(child.phase)}")
    cluster.put(parent, counted)


def release_other_attempt(cluster: Cluster, task: Task, finished: int) -> None:
    """The task's attempt that runs elsewhere is not needed any more."""
    if task.current and task.current != finished:
        attempt = cluster.holdings.find(task.worker, (task.id, task.current))
        if attempt is not None:
            cluster.holdings.mark_unneeded(attempt)


def leave_dead_letter(cluster: Cluster, task: Task, now: int) -> None:
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


def past(phase: str) -> str:
    return "timed out" if phase == "timed_out" else "was cancelled"
