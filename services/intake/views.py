"""What people and programs see of a task or a worker: the JSON of the API and of the commands' `--json`, from the cluster state."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from mloc.core.cluster import Cluster
from mloc.core.events import TaskSubmitted
from mloc.core.task import FINAL, STATUS, Task
from mloc.core.worker import Worker
from mloc.services.log.event_log import Heartbeat


def task_view(cluster: Cluster, task: Task) -> dict[str, Any]:
    """One task as it stands. Times are ISO 8601, UTC; null for never."""
    view: dict[str, Any] = {
        "task_id": task.id,
        "name": task.name,
        "kind": task.kind,
        "task_type": task.task_type or "pipeline",
        "state": task.phase,
        "status": STATUS[task.phase],
        "owner": task.owner,
        "project": task.project,
        "labels": task.labels,
        "priority": task.priority,
        "parent": task.parent or None,
        "stage": task.stage or None,
        "children": list(task.children),
        "depends_on": list(task.depends_on),
        "waiting_on": waiting_on(cluster, task),
        "worker_id": task.worker or None,
        "attempt": task.current or task.last,
        "attempts": task.tries,
        "failures": task.failures,
        "max_attempts": task.max_attempts,
        "submitted_at": iso(task.submitted_ms),
        "started_at": iso(task.started_ms),
        "ended_at": iso(task.ended_ms),
        "since": iso(task.since_ms),
        "reason": task.reason or cluster.doomed.get(task.id, ""),
        "error": msgspec.to_builtins(task.error) if task.error else None,
    }
    if task.phase == "backoff":
        view["not_before"] = iso(task.not_before_ms)
    if task.shard is not None:
        view["shard"] = {"index": task.shard[0], "count": task.shard[1]}
    if task.rows or task.items:
        view["rows"] = {"done": task.rows, "of": task.items or None}
    if task.checkpoint:
        view["checkpoint"] = {"path": task.checkpoint, "step": task.checkpoint_step}
    if task.children:
        view["children_done"], view["children_dead_lettered"] = task.done, task.dead
    return view


def task_page(cluster: Cluster, task: Task) -> dict[str, Any]:
    """One task with its children and, while it is open, its spec."""
    view = task_view(cluster, task)
    children = (cluster.tasks.get(id) for id in task.children)
    view["tasks"] = [task_view(cluster, child) for child in children if child is not None]
    spec = cluster.spec_of(task)
    view["spec"] = msgspec.json.decode(spec) if spec else None
    return view


def accepted_view(event: TaskSubmitted) -> dict[str, Any]:
    """The short form of a task in the answer to its submission."""
    waiting = [id for id in event.depends_on if id not in event.met]
    state = "waiting" if waiting or event.children else "ready"
    return {
        "task_id": event.task, "name": event.name, "status": STATUS[state], "state": state, "waiting_on": waiting,
        "depends_on": list(event.depends_on), "parent": event.parent or None, "stage": event.stage or None,
    }  # fmt: skip


def repeated_view(cluster: Cluster, task: Task) -> dict[str, Any]:
    """The same short form for a task that the log has already."""
    return {
        "task_id": task.id, "name": task.name, "status": STATUS[task.phase], "state": task.phase, "waiting_on": waiting_on(cluster, task),
        "depends_on": list(task.depends_on), "parent": task.parent or None, "stage": task.stage or None,
    }  # fmt: skip


def waiting_on(cluster: Cluster, task: Task) -> list[str]:
    """Dependencies whose results are not published yet."""
    if task.phase in FINAL or not task.pending:
        return []
    met = cluster.met.get(task.id, {})
    return [id for id in task.depends_on if id not in met and not _is_published(cluster, id)]


def worker_view(cluster: Cluster, worker: Worker, beat: tuple[int, Heartbeat] | None, now_ms: int, ttl_ms: int) -> dict[str, Any]:
    """One worker as it stands; `beat` is its last heartbeat with its time, ms."""
    held = list(cluster.holdings.of(worker.id).values())
    silent_ms = now_ms - max(beat[0] if beat else 0, worker.registered_ms)
    return {
        "worker_id": worker.id,
        "state": worker.phase,
        "status": _worker_status(worker, busy=bool(held), is_silent=silent_ms > ttl_ms),
        "incarnation": worker.incarnation,
        "hostname": worker.hardware.hostname,
        "cpus": worker.hardware.cpus,
        "memory_bytes": worker.hardware.memory,
        "devices": [msgspec.to_builtins(device) for device in worker.hardware.devices],
        "task_types": sorted(worker.task_types),
        "tags": sorted(worker.tags),
        "slots": worker.slots,
        "cost_per_hour": worker.cost_per_hour,
        "engines": list(worker.engines),
        "draining": worker.draining,
        "running": [{"task_id": attempt.task, "attempt": attempt.number, "devices": list(attempt.devices)} for attempt in held[:100]],
        "running_count": len(held),
        "registered_at": iso(worker.registered_ms),
        "since": iso(worker.since_ms),
        "versions": worker.versions,
        "heartbeat": _heartbeat_view(beat, now_ms),
    }


def iso(ms: int) -> str | None:
    """A time in ms since 1970 as ISO 8601 with milliseconds; None for 0."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if ms else None


def _worker_status(worker: Worker, *, busy: bool, is_silent: bool) -> str:
    if worker.phase == "retired":
        return "DISABLED"
    if worker.phase == "lost" or is_silent:
        return "STALE"
    if worker.draining:
        return "DRAINING"
    return "RUNNING" if busy else "IDLE"


def _heartbeat_view(beat: tuple[int, Heartbeat] | None, now_ms: int) -> dict[str, Any] | None:
    if beat is None:
        return None
    at_ms, heartbeat = beat
    fields = msgspec.structs.asdict(heartbeat)
    del fields["worker"], fields["incarnation"]
    return {"age_sec": max(0, now_ms - at_ms) / 1000, **fields}


def _is_published(cluster: Cluster, id: str) -> bool:
    task = cluster.tasks.get(id)
    return task is not None and task.phase == "published"
