"""Results that are kept for a time only (`ttl_sec`): which may go now. Those that an open task may still read stay until it has ended."""

from __future__ import annotations

import heapq
from collections.abc import Collection

from msgspec.structs import replace

from mloc.core.cluster import Cluster
from mloc.core.events import Event, ResultExpired
from mloc.core.order import ascending
from mloc.core.task import FINAL

MOST_LOOKS = 10_000  # in one round, at results that are due and still needed


def decide(cluster: Cluster, now_ms: int, removed: Collection[str], max_answers: int = 64) -> tuple[list[Event], list[str]]:
    """Events for results whose files are gone, and tasks whose files are to be removed (asked for again until they are in `removed`)."""
    events: list[Event] = []
    removals: list[str] = []
    for look, (due_ms, task) in enumerate(ascending(cluster.expiring)):
        if due_ms > now_ms or look >= MOST_LOOKS or len(events) + len(removals) >= max_answers:
            break
        if task in removed:
            events.append(ResultExpired(task=task, due_ms=due_ms))
        elif not is_needed(cluster, task):
            removals.append(task)
    return events, removals


def is_needed(cluster: Cluster, id: str) -> bool:
    """Whether somebody waits for the result or is to be told of it, an attempt still writes, or the pipeline goes on."""
    task = cluster.tasks.get(id)
    if task is not None and any(one.state == "due" for one in task.callbacks):
        return True
    if task is not None and any(key[0] == id for key in cluster.holdings.of(task.worker)):
        return True
    family = (task.parent, *task.children) if task is not None else ()
    others = (*family, *cluster.dependants.get(id, ()))
    return any(other in cluster.tasks and cluster.tasks[other].phase not in FINAL for other in others)


def expire(cluster: Cluster, event: ResultExpired, now: int) -> None:
    """The fold of `ResultExpired`."""
    entry = (event.due_ms, event.task)
    if entry in cluster.expiring:
        cluster.expiring.remove(entry)
        heapq.heapify(cluster.expiring)
    task = cluster.tasks.get(event.task)
    if task is not None and task.phase in FINAL and not task.expired_ms:
        cluster.put(task, replace(task, expired_ms=now))
