"""The smallest change that would let a task run on the fleet as it is: `gpu.memory 24Gi instead of 80Gi would fit w1`.

Candidates are made for each worker and asked of `misfit`, the predicate that places tasks, so that no rule is stated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

from msgspec import Struct
from msgspec.structs import replace

from mloc.core.cluster import Cluster
from mloc.core.decisions import placement
from mloc.core.events import Need
from mloc.core.worker import Worker, not_offered

MOST_SHAPES = 256  # looked at closely: the answer is advice, and must not become slow on a large fleet of machines that all differ


class Change(Struct, frozen=True, gc=False):
    """One thing to ask otherwise, in the words of a task file: `gpu.memory`, `24Gi`, `80Gi`."""

    what: str
    instead: str
    asked: str

    def __str__(self) -> str:
        return f"{self.what} {self.instead} instead of {self.asked}"


class NearestFit(Struct, frozen=True, gc=False):
    """With these changes, that is as `need`, the task would fit the worker. `switches`: what a person does to the worker first."""

    worker: str
    need: Need
    changes: tuple[Change, ...]
    switches: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = " and ".join((*map(str, self.changes), *self.switches))
        return f"{said} would fit {self.worker}" if self.changes else f"{said} would let it run there"


def nearest_fit(cluster: Cluster, need: Need) -> NearestFit | None:
    """The fit with the fewest changes, of several the one that gives up least; None where no worker that lives offers the type, or one fits as
    it is. Workers of one shape would all need the same, so the first of them by id stands for them."""
    found: tuple[tuple[int, float], str, NearestFit] | None = None
    shapes = dict[tuple[object, ...], Worker]()
    for id in sorted(cluster.workers):
        worker = cluster.workers[id]
        if worker.phase != "alive" or worker.run_id != cluster.run_id or not_offered(worker, need):
            continue
        if not placement.misfit(cluster, worker, need):
            return None
        shapes.setdefault(_shape(worker), worker)
    for worker in sorted(shapes.values(), key=lambda worker: _distance(worker, need))[:MOST_SHAPES]:
        fit = _of_worker(cluster, worker, need)
        if fit is not None and (found is None or (_cost(fit, need), fit.worker) < found[:2]):
            found = _cost(fit, need), fit.worker, fit
    return found[2] if found is not None else None


def _shape(worker: Worker) -> tuple[object, ...]:
    """All of a worker that `misfit` looks at, but what is the same for all that come into question."""
    hardware = worker.hardware
    devices = tuple((device.name, device.memory) for device in hardware.devices)
    return hardware.cpus, hardware.memory, devices, worker.tags, worker.draining, worker.disabled


def _distance(worker: Worker, need: Need) -> tuple[int, int, float, int, str]:
    """A quick guess at how much would have to change: what is too small or missing, then the larger worker first."""
    hardware = worker.hardware
    typed = placement.devices_of_type(worker, need) if need.gpus else []
    large = sum(device.memory >= need.gpu_memory for device in typed)
    short = (
        not set(need.tags) <= worker.tags, need.cpu > hardware.cpus, need.memory > hardware.memory > 0, len(typed) < need.gpus, large < need.gpus,
        worker.draining, worker.disabled,
    )  # fmt: skip
    return sum(short), -sum(device.memory for device in hardware.devices), -hardware.cpus, -hardware.memory, worker.id


def _of_worker(cluster: Cluster, worker: Worker, need: Need) -> NearestFit | None:
    switches = _switches(worker)
    willing = replace(worker, draining=False, disabled=False)
    for count in range(len(_EASED) + 1):
        for eased in combinations(_EASED, count):
            changed, changes = need, list[Change]()
            for ease in eased:
                eased_need = ease(worker, changed)
                changes += _changes(changed, eased_need)
                changed = eased_need
            if len(changes) == count and not placement.misfit(cluster, willing, changed):
                return NearestFit(worker.id, changed, tuple(changes), switches)
    return None


def _cost(fit: NearestFit, asked: Need) -> tuple[int, float]:
    """Number of changes, then what share of the quantities asked for they give up."""
    pairs = ((asked.cpu, fit.need.cpu), (asked.memory, fit.need.memory), (asked.gpu_memory, fit.need.gpu_memory), (asked.gpus, fit.need.gpus))
    return len(fit.changes) + len(fit.switches), sum(1 - given / wanted for wanted, given in pairs if wanted)


def _switches(worker: Worker) -> tuple[str, ...]:
    ended = f"ending the drain of {worker.id}" if worker.draining else ""
    return tuple(filter(None, (ended, f"switching {worker.id} on" if worker.disabled else "")))


def _changes(before: Need, after: Need) -> Iterator[Change]:
    """What an easing changed, at most one thing."""
    if before.tags != after.tags:
        yield Change("tags", f"[{', '.join(after.tags)}]", f"[{', '.join(before.tags)}]")
    if before.cpu != after.cpu:
        yield Change("cpu", f"{after.cpu:g}", f"{before.cpu:g}")
    if before.memory != after.memory:
        yield Change("memory", _size_text(after.memory), _size_text(before.memory))
    if before.gpu_type != after.gpu_type:
        yield Change("gpu.type", after.gpu_type, before.gpu_type)
    if before.gpu_memory != after.gpu_memory:
        yield Change("gpu.memory", _size_text(after.gpu_memory), _size_text(before.gpu_memory))
    if before.gpus != after.gpus:
        yield Change("gpu.count", str(after.gpus), str(before.gpus))


def _tags(worker: Worker, need: Need) -> Need:
    return replace(need, tags=tuple(tag for tag in need.tags if tag in worker.tags))


def _cpu(worker: Worker, need: Need) -> Need:
    return replace(need, cpu=min(need.cpu, worker.hardware.cpus))


def _memory(worker: Worker, need: Need) -> Need:
    return replace(need, memory=min(need.memory, worker.hardware.memory) if worker.hardware.memory > 0 else need.memory)


def _gpu_type(worker: Worker, need: Need) -> Need:
    return replace(need, gpu_type="any")


def _gpu_memory(worker: Worker, need: Need) -> Need:
    """What the n-th largest device of the type has, for n devices; the smallest where there are fewer."""
    sizes = sorted((device.memory for device in placement.devices_of_type(worker, need)), reverse=True)
    return replace(need, gpu_memory=min(need.gpu_memory, sizes[min(need.gpus, len(sizes)) - 1])) if need.gpus and sizes else need


def _gpu_count(worker: Worker, need: Need) -> Need:
    """As many as fit; none only where the worker has none."""
    fitting = sum(device.memory >= need.gpu_memory for device in placement.devices_of_type(worker, need))
    return replace(need, gpus=min(need.gpus, fitting)) if fitting or not worker.hardware.devices else need


# In the order of their application: the memory is that of devices of the type asked for, the count that of devices large enough.
_EASED: tuple[Callable[[Worker, Need], Need], ...] = (_tags, _cpu, _memory, _gpu_type, _gpu_memory, _gpu_count)


def _size_text(size_bytes: int) -> str:
    """As a task file writes it, never more than there is: `24Gi`, `22.5Gi`, `512Mi`."""
    unit, name = (2**30, "Gi") if size_bytes >= 2**30 else (2**20, "Mi")
    whole, tenths = divmod(size_bytes * 10 // unit, 10)
    return f"{whole}.{tenths}{name}" if tenths else f"{whole}{name}"
