"""Which of the workers that fit gets a task: the ways to choose that `DISPATCH_POLICY` names.

    best-fit        where the engine is ready soonest (warm, asleep, loaded there before), then the least loaded, then the cheapest worker
    first-fit       the first one with room, by id: the others stay free
    min-satisfying  the smallest one with room: large workers stay free for what needs them
    round-robin     the one after the last that got a task, by id
    static          the one that the task's id points to, and no other: it waits for that worker's room
    fixed-pipeline  the one that the pipeline's id points to, so that stages find each other's files and engines there

Under each, a worker on which the task failed last comes after the others, and one where it would wait behind other work after the free ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from mloc.core.task import Task
from mloc.core.worker import Worker, seconds_to_ready

DEFAULT = "best-fit"
ROUND_ROBIN = "round-robin"
PINNED = ("static", "fixed-pipeline")

Score = tuple[Any, ...]  # the least is the best; the worker's id ends it, so that no two are equal


def score_of(policy: str) -> Callable[[Worker, Task, int, str], Score]:
    """(worker, task, load, the worker that got a task last) → score. An unknown policy, of a newer program's log, is the default."""
    return _SCORES.get(policy, _best_fit)


def pinned(policy: str, task: Task, fitting: Sequence[str]) -> str:
    """The worker, of those that fit, that the task or its pipeline always goes to; not the one on which it failed last, where there is another.

    Each worker draws a number for each key and the largest wins (rendezvous hashing): who comes or goes moves only its own share.
    """
    key = task.parent if policy == "fixed-pipeline" and task.parent and not task.shard else task.id
    others = [id for id in fitting if id != task.failed_on] or fitting
    return max(others, key=lambda id: (hashlib.blake2b(f"{key}\0{id}".encode(), digest_size=8).digest(), id))


def _best_fit(worker: Worker, task: Task, load: int, last: str) -> Score:
    need = task.need
    return seconds_to_ready(worker, need.engine) if need is not None and need.engine else 0.0, load, worker.cost_per_hour, worker.id


def _first_fit(worker: Worker, task: Task, load: int, last: str) -> Score:
    return (worker.id,)


def _min_satisfying(worker: Worker, task: Task, load: int, last: str) -> Score:
    hardware = worker.hardware
    devices = hardware.devices
    return len(devices), sum(device.memory for device in devices), hardware.cpus, hardware.memory, load, worker.id


def _round_robin(worker: Worker, task: Task, load: int, last: str) -> Score:
    return worker.id <= last, worker.id


_SCORES = {DEFAULT: _best_fit, "first-fit": _first_fit, "min-satisfying": _min_satisfying, ROUND_ROBIN: _round_robin}
POLICIES = (*_SCORES, *PINNED)
