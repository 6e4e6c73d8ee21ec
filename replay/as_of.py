"""The state as it was at a point of history, and one task of it with the events that made it."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from mloc.core import codec, event_line, log_ids, moment
from mloc.core.cluster import Cluster
from mloc.core.moment import Moment
from mloc.core.task import Task
from mloc.core.worker import Worker
from mloc.replay.entries import entries
from mloc.replay.rebuild import OnProgress, Rebuilt, rebuild
from mloc.services.log.event_log import Entry, EventLog


class TaskUnknown(Exception):
    """No task has this id at that point; the message names those that come close."""


class Happened(Struct, frozen=True, omit_defaults=True, gc=False):
    """One event of a task's history."""

    id: str
    time: str
    type: str
    what: str
    event: msgspec.Raw


class AsOf(Struct, frozen=True):
    """A point of history: the state there, and how many events made it."""

    position: str
    events: int
    time: str
    digest: str
    counts: dict[str, int]
    workers: list[Worker]
    tasks: list[Task]


async def as_of(log: EventLog, at: Moment, on_progress: OnProgress | None = None) -> tuple[AsOf, Rebuilt]:
    """Fold to the moment. Raises LogDamaged, LogUnavailable."""
    rebuilt = await rebuild(log, at, on_progress)
    cluster = rebuilt.cluster
    return AsOf(
        cluster.position, rebuilt.events, moment.iso(log_ids.time_ms(cluster.position)), cluster.digest(), cluster.counts(),
        list(cluster.workers.values()), list(cluster.tasks.values()),
    ), rebuilt  # fmt: skip


async def history(log: EventLog, task: str, until: str) -> list[Happened]:
    """All events of one task, up to an id. A task that left memory long ago still has them."""
    named = b'"' + task.encode() + b'"'
    found = []
    async for batch in entries(log, until=until):
        found += [happened for entry in batch if named in entry.payload and (happened := _happened(entry, task))]
    return found


def task_at(cluster: Cluster, id: str) -> Task:
    """The task. Raises TaskUnknown."""
    if id in cluster.tasks:
        return cluster.tasks[id]
    close = sorted((known for known in cluster.tasks if id in known), key=len)[:5]
    hint = f"; tasks there: {', '.join(close)}" if close else ""
    raise TaskUnknown(f"no task {id} at {cluster.position} (finished tasks leave the state after a while){hint}")


def task_whole(cluster: Cluster, task: Task) -> dict[str, Any]:
    """Everything that the state holds of a task, its spec included while it is open."""
    spec = cluster.spec_of(task)
    return {
        **{name: msgspec.to_builtins(getattr(task, name)) for name in task.__struct_fields__},
        "spec": msgspec.json.decode(spec) if spec else None,
        "held_by": [msgspec.structs.asdict(attempt) for attempt in cluster.holdings.all() if attempt.task == task.id],
        "will_be_cancelled": cluster.doomed.get(task.id, ""),
    }


def _happened(entry: Entry, task: str) -> Happened | None:
    event = codec.decode(entry.type, entry.payload)
    if event_line.task_of(event) != task:
        return None
    return Happened(entry.id, moment.iso(log_ids.time_ms(entry.id)), entry.type, event_line.describe(event), msgspec.Raw(entry.payload))
