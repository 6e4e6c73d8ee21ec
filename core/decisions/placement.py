"""Which worker takes a task: what it must have (`misfit`), whether it has room now (`Room`), and which of several is best (`choose`).

The same predicates place a task and explain why it waits.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from mloc.core.cluster import Cluster
from mloc.core.decisions import dispatch_policy
from mloc.core.decisions.joining import MOST_IN_BATCH, may_join
from mloc.core.events import Device, Need
from mloc.core.task import Task
from mloc.core.worker import Worker, not_offered

AHEAD_MS = 100.0  # work that needs no device may be sent this much ahead of need
LIGHT_FIRST = 64  # light attempts in flight while their duration is not known yet
LIGHT_MOST = 1024
LEAST_CPU = 1e-6  # cores: what sums of fractions may be off by


class Room:
    """A worker's free capacity within one round of decisions; taking from it does not change the cluster."""

    def __init__(self, cluster: Cluster, worker: Worker) -> None:
        self.worker = worker
        self._cluster = cluster
        self._light = cluster.holdings.light(worker.id)
        self._slots = cluster.holdings.slots(worker.id)
        self._reserved: tuple[float, int] | None = None  # cores and bytes that its attempts asked for; looked up when a need asks for some
        self._devices: set[int] = set()  # taken in this round
        self._joined: dict[tuple[int, ...], int] = {}  # devices → how many joined the batch there in this round
        self._kept: dict[int, str] = {}  # device → task that waits for it, so that none who comes later joins there

    def place(self, need: Need) -> tuple[int, ...] | None:
        """Device indexes for the need (empty where it needs none); None where there is no room now."""
        if need.light:
            return () if self._light < _light_window(self._cluster, need) else None
        if (need.cpu or need.memory) and self.shortage(need):
            return None
        if not need.gpus:
            return () if self._slots < self.worker.slots + _slots_ahead(self._cluster, need, self.worker.slots) else None
        free = [
            device.index
            for device in devices_of_type(self.worker, need)
            if device.memory >= need.gpu_memory and device.index not in self._devices
            and self._cluster.holdings.device_room(self.worker.id, device, need)
        ]  # fmt: skip
        return tuple(free[: need.gpus]) if len(free) >= need.gpus else None

    def join(self, need: Need) -> tuple[int, ...] | None:
        """Devices where the engine that the need wants takes it into its batch, of several those with the fewest in it; None where there are none."""
        batches = self._batches(need)
        open_ = [(count, devices) for devices, count in batches.items() if count < MOST_IN_BATCH and self._kept.keys().isdisjoint(devices)]
        return min(open_)[1] if open_ else None

    def has_room(self, need: Need) -> bool:
        return self.place(need) is not None or self.join(need) is not None

    def keep_for(self, task: Task) -> None:
        """The task waits for room: nobody joins a batch on the devices that it may get, so that they come free for it."""
        if (need := task.need) is not None and need.gpus:
            for device in devices_of_type(self.worker, need):
                if device.memory >= need.gpu_memory:
                    self._kept.setdefault(device.index, task.id)

    def kept_for(self, need: Need) -> str:
        """The task for which the devices are kept whose batch the need would join; "" where there is none."""
        return next((self._kept[device] for devices in self._batches(need) for device in devices if device in self._kept), "")

    def _batches(self, need: Need) -> dict[tuple[int, ...], int]:
        """Devices that would do for the need, with the engine that it wants → how many are in its batch."""
        if not may_join(need) or need.engine not in self.worker.batching or self.shortage(need):
            return {}
        typed = {device.index for device in devices_of_type(self.worker, need)}
        return {
            devices: count + self._joined.get(devices, 0)
            for devices, count in self._cluster.holdings.batches(self.worker.id, need.engine)
            if len(devices) == need.gpus and typed.issuperset(devices)
        }

    def shortage(self, need: Need) -> str:
        """Which of its cores or memory are too few beside what its attempts asked for; "" for neither. Light work reserves nothing."""
        if need.light or not (need.cpu or need.memory):
            return ""
        cpu, memory = self._taken()
        hardware = self.worker.hardware
        if need.cpu and cpu + need.cpu > hardware.cpus + LEAST_CPU:
            return f"{max(0.0, hardware.cpus - cpu):.3g} of its {hardware.cpus:g} CPUs are free, {need.cpu:g} are needed"
        if need.memory and memory + need.memory > hardware.memory > 0:
            free = max(0, hardware.memory - memory)
            return f"{free / 2**30:.1f} of its {hardware.memory / 2**30:.1f} GiB of memory are free, {need.memory / 2**30:.1f} are needed"
        return ""

    def take(self, need: Need, devices: tuple[int, ...], *, joins: bool = False) -> None:
        if (need.cpu or need.memory) and not need.light:
            cpu, memory = self._taken()
            self._reserved = cpu + need.cpu, memory + need.memory
        if need.light:
            self._light += 1
        elif joins:
            self._joined[devices] = self._joined.get(devices, 0) + 1
        elif devices:
            self._devices.update(devices)
        else:
            self._slots += 1

    def _taken(self) -> tuple[float, int]:
        if self._reserved is None:
            self._reserved = self._cluster.holdings.reserved(self.worker.id)
        return self._reserved

    def in_batch(self, devices: tuple[int, ...]) -> int:
        """Attempts that share the engine on these devices."""
        return len(self._cluster.holdings.on_device(self.worker.id, devices[0])) + self._joined.get(devices, 0)

    def load(self, need: Need) -> int:
        """How busy the worker is with work of the need's sort; the least loaded gets the next one."""
        if need.light:
            return self._light
        return self._slots if not need.gpus else len(self._devices) + sum(
            bool(self._cluster.holdings.on_device(self.worker.id, d.index)) for d in self.worker.hardware.devices
        )


def misfit(cluster: Cluster, worker: Worker, need: Need) -> str:
    """The first thing that keeps the worker from ever taking the need as the worker is now; "" where nothing does."""
    hardware = worker.hardware
    if worker.phase != "alive":
        return f"the worker is {worker.phase}"
    if worker.run_id != cluster.run_id:
        return "the worker has not registered since the server restarted"
    if worker.draining:
        return "the worker is draining"
    if worker.disabled:
        return "the worker is switched off"
    if lacking := not_offered(worker, need):
        return f"it does not offer {'task type ' if lacking == need.task_type else ''}{lacking}"
    if missing := sorted(set(need.tags) - worker.tags):
        return f"it lacks the tag {missing[0]}"
    if need.cpu > hardware.cpus:
        return f"it has {hardware.cpus:g} CPUs, {need.cpu:g} are needed"
    if need.memory > hardware.memory > 0:
        return f"it has {hardware.memory / 2**30:.1f} GiB of memory, {need.memory / 2**30:.1f} are needed"
    return _device_misfit(worker, need)


def _device_misfit(worker: Worker, need: Need) -> str:
    if not need.gpus:
        return ""
    typed = devices_of_type(worker, need)
    if len(typed) < need.gpus:
        kind = "" if need.gpu_type == "any" else f" of type {need.gpu_type}"
        return f"it has {len(typed)} GPUs{kind}, {need.gpus} are needed"
    large = [d for d in typed if d.memory >= need.gpu_memory]
    if len(large) < need.gpus:
        return f"{len(large)} of its GPUs have {need.gpu_memory / 2**30:.1f} GiB, {need.gpus} are needed"
    return ""


def devices_of_type(worker: Worker, need: Need) -> list[Device]:
    """The worker's devices that answer to the type that is asked for."""
    return [device for device in worker.hardware.devices if need.gpu_type.lower() in ("any", "", *_names(device.name))]


class Rule(Struct, frozen=True, gc=False):
    """How to choose: the policy by name (empty: the default), and the worker that got a task last, where it asks for that."""

    policy: str = ""
    last_worker: str = ""

    @property
    def is_pinned(self) -> bool:
        """Whether a task that finds no room says nothing of those behind it."""
        return self.policy in dispatch_policy.PINNED

    def after(self, worker: str) -> Rule:
        return Rule(self.policy, worker) if self.policy == dispatch_policy.ROUND_ROBIN else self


def rule_of(cluster: Cluster) -> Rule:
    return Rule(cluster.dispatch_policy, cluster.last_worker)


class Place(Struct, frozen=True, gc=False):
    """Where a task goes. `joins`: into the batch of the engine that has the devices, which are not free."""

    worker: str
    devices: tuple[int, ...] = ()
    joins: bool = False


def choose(rooms: Mapping[str, Room], fitting: list[str], task: Task, rule: Rule) -> Place | None:
    """The best worker with room now, and the devices there; None where all that the task may go to are busy.

    Free devices come first, wherever they are: else one would fill up while others stand idle. Not the worker of the last failure while
    another one has room, then one where it starts at once, then as the policy has it.
    """
    ids = _goes_to(fitting, task, rule)
    place = _best(rooms, ids, task, rule, joins=False)
    return _best(rooms, ids, task, rule, joins=True) if place is None and task.need is not None and may_join(task.need) else place


def keep_for(rooms: Mapping[str, Room], fitting: list[str], task: Task, rule: Rule) -> None:
    """The task waits for one of the workers that fit. Where all of them are busy, others with its need, tied to any of them, wait behind it."""
    assert task.need is not None
    any_room = rule.is_pinned and any(rooms[id].has_room(task.need) for id in fitting)
    for id in _goes_to(fitting, task, rule) if any_room else fitting:
        rooms[id].keep_for(task)


def _goes_to(fitting: list[str], task: Task, rule: Rule) -> list[str]:
    """Of the workers that fit, those that the task may go to under the policy."""
    return [dispatch_policy.pinned(rule.policy, task, fitting)] if rule.is_pinned and fitting else fitting


def _best(rooms: Mapping[str, Room], ids: list[str], task: Task, rule: Rule, *, joins: bool) -> Place | None:
    need = task.need
    assert need is not None
    score_of = dispatch_policy.score_of(rule.policy)
    best: tuple[tuple[bool, bool, dispatch_policy.Score], str, tuple[int, ...]] | None = None
    for id in ids:
        room = rooms[id]
        devices = room.join(need) if joins else room.place(need)
        if devices is None:
            continue
        load = room.in_batch(devices) if joins else room.load(need)
        behind = not need.light and not need.gpus and load >= room.worker.slots
        score = (id == task.failed_on, behind, score_of(room.worker, task, load, rule.last_worker))
        if best is None or score < best[0]:
            best = score, id, devices
    return Place(best[1], best[2], joins) if best else None


def _light_window(cluster: Cluster, need: Need) -> int:
    mean = cluster.mean_ms.get(need.task_type)
    return LIGHT_FIRST if mean is None else max(LIGHT_FIRST, min(LIGHT_MOST, int(AHEAD_MS / max(mean, 0.01))))


def _slots_ahead(cluster: Cluster, need: Need, slots: int) -> int:
    """Tasks of known short duration may wait behind the slots; long ones are better placed when a slot is free."""
    mean = cluster.mean_ms.get(need.task_type)
    return 0 if mean is None or mean > AHEAD_MS else min(slots * int(AHEAD_MS / max(mean, 1.0)), 256)


def _names(device: str) -> tuple[str, ...]:
    """A device's name and its parts, lower case: `NVIDIA H200` answers to `nvidia h200`, `nvidia`, `h200`."""
    lower = device.lower()
    return (lower, *lower.replace("-", " ").split())
