"""What people and programs see of a worker, from the cluster state and its last heartbeat."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mloc.core.cluster import Cluster
from mloc.core.worker import Worker, is_silent
from mloc.services.intake.views import Time, iso
from mloc.services.log.event_log import Heartbeat

MOST_RUNNING = 100

WorkerState = Literal["alive", "lost", "retired"]
WorkerStatus = Literal["IDLE", "RUNNING", "STALE", "DRAINING", "DISABLED"]


class DeviceView(Struct, frozen=True):
    index: int
    name: str
    memory: int


class HeldView(Struct, frozen=True):
    """An attempt that the worker holds."""

    task_id: str
    attempt: int
    devices: tuple[int, ...]


class HeartbeatView(Struct, frozen=True):
    """What the worker last said of itself, and how long ago."""

    age_sec: float
    cpu_percent: float
    memory_bytes: int
    device_percent: tuple[float, ...]
    device_memory: tuple[int, ...]
    running: int


class WorkerView(Struct, frozen=True, kw_only=True):
    """One worker as it stands. `running` lists at most 100 of the attempts that `running_count` counts; sizes are bytes."""

    worker_id: str
    state: WorkerState
    status: WorkerStatus
    incarnation: int
    hostname: str
    cpus: float
    memory_bytes: int
    devices: tuple[DeviceView, ...]
    task_types: tuple[str, ...]
    tags: tuple[str, ...]
    slots: int
    cost_per_hour: float
    engines: tuple[str, ...]
    draining: bool
    enabled: bool
    running: tuple[HeldView, ...]
    running_count: int
    registered_at: Time | None
    since: Time | None
    versions: dict[str, str]
    heartbeat: HeartbeatView | None


def worker_view(cluster: Cluster, worker: Worker, beat: tuple[int, Heartbeat] | None, now_ms: int, ttl_ms: int) -> WorkerView:
    """One worker as it stands; `beat` is its last heartbeat with its time, ms."""
    held = list(cluster.holdings.of(worker.id).values())
    silent_ms = now_ms - max(beat[0] if beat else 0, worker.registered_ms)
    return WorkerView(
        worker_id=worker.id, state=worker.phase, status=_status(worker, busy=bool(held), is_silent=is_silent(worker, silent_ms, ttl_ms)),
        incarnation=worker.incarnation, hostname=worker.hardware.hostname, cpus=worker.hardware.cpus, memory_bytes=worker.hardware.memory,
        devices=tuple(DeviceView(device.index, device.name, device.memory) for device in worker.hardware.devices),
        task_types=tuple(sorted(worker.task_types)), tags=tuple(sorted(worker.tags)), slots=worker.slots, cost_per_hour=worker.cost_per_hour,
        engines=worker.engines, draining=worker.draining, enabled=not worker.disabled,
        running=tuple(HeldView(attempt.task, attempt.number, attempt.devices) for attempt in held[:MOST_RUNNING]), running_count=len(held),
        registered_at=iso(worker.registered_ms), since=iso(worker.since_ms), versions=worker.versions, heartbeat=_heartbeat(beat, now_ms),
    )  # fmt: skip


def _status(worker: Worker, *, busy: bool, is_silent: bool) -> WorkerStatus:
    if worker.phase == "retired":
        return "DISABLED"
    if worker.phase == "lost" or is_silent:
        return "STALE"
    if worker.disabled:
        return "DISABLED"
    if worker.draining:
        return "DRAINING"
    return "RUNNING" if busy else "IDLE"


def _heartbeat(beat: tuple[int, Heartbeat] | None, now_ms: int) -> HeartbeatView | None:
    if beat is None:
        return None
    at_ms, said = beat
    age_sec = max(0, now_ms - at_ms) / 1000
    return HeartbeatView(age_sec, said.cpu_percent, said.memory_bytes, said.device_percent, said.device_memory, said.running)
