"""Which tasks are answered in the batch of an engine that runs on a GPU already, and for whom the devices are kept from them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from mloc.core.cluster import Cluster
from mloc.core.events import Need
from mloc.core.needs.engine_key import is_shared
from mloc.core.order import Rank, rank
from mloc.core.task import Task

MOST_IN_BATCH = 8  # tasks of one engine on a GPU; each keeps as many rows in flight as the batch takes, so that more of them gain nothing
_ENGINE_ALONE = frozenset({"inference", "agent"})  # an eval may bring a model that judges


def may_join(need: Need) -> bool:
    """Whether nothing but that engine goes onto the task's devices, and no memory of them is kept for it, where it could have its own."""
    return bool(
        need.gpus and not need.gpu_memory and is_shared(need.engine)
        and need.task_type in _ENGINE_ALONE and "retrieval" not in need.parts  # which may bring a model for vectors
    )  # fmt: skip


def first_in_line(cluster: Cluster, before: Rank, now_ms: int) -> Iterator[Task]:
    """Of each need the first task that is placed before one of that rank."""
    seen = set[Need]()
    for task in chain(list(cluster.due_backoffs(now_ms)), cluster.ready.in_order(cluster.tasks, seen)):
        if task.phase == "ready" and rank(task) >= before:
            return
        if task.need is not None and task.need not in seen and task.id not in cluster.doomed:
            seen.add(task.need)
            yield task
