"""What a task adds to the statistics of the hour in which it was submitted, and what its attempts took.

A shard counts with its parent: it adds what its attempts took, and no task of its own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from mloc.core.events import AttemptSucceeded, TaskSubmitted
from mloc.core.task import Task
from mloc.core.worker import Worker

Sums = dict[str, float]


class Summed(NamedTuple):
    """What tasks of one type and model came to: an owner's beside everyone's, or ("") all that were asked for."""

    owner: str
    task_type: str
    model: str
    sums: Sums


PIPELINE = "pipeline"  # in place of the task type that a pipeline lacks
_GROWTH = math.log(1.05)

encode_sums = msgspec.msgpack.Encoder().encode
decode_sums = msgspec.msgpack.Decoder(Sums).decode


class _Promise(Struct, frozen=True):
    deadline_sec: float | None = None
    latency_sec: float | None = None


class _Promised(Struct, frozen=True):
    slo: _Promise = _Promise()


_promised_of = msgspec.json.Decoder(_Promised).decode


def add_sums(into: Sums, more: Sums, times: int = 1) -> None:
    """What comes to nothing is left out."""
    for what, n in more.items():
        total = into.get(what, 0) + n * times
        if total:
            into[what] = total
        else:
            into.pop(what, None)


def bucket(ms: float) -> int:
    """Durations within 5 % of each other share a bucket."""
    return int(math.log(max(ms, 1.0)) / _GROWTH)


def bucket_ms(number: int) -> float:
    """The middle of a bucket: at most 2.5 % from each of its durations."""
    return math.exp((number + 0.5) * _GROWTH)


def promised_ms(event: TaskSubmitted, submitted_ms: int) -> int:
    """When its service level objective says that it must have ended; 0 where it has none."""
    spec = memoryview(event.spec)
    if b'"slo"' not in bytes(spec):
        return 0
    try:
        slo = _promised_of(spec).slo
    except msgspec.MsgspecError:
        return 0
    limits = [seconds for seconds in (slo.deadline_sec, slo.latency_sec) if seconds]
    return submitted_ms + int(min(limits) * 1000) if limits else 0


def outcome(task: Task, due_ms: int) -> Sums:
    """The task's own part, as it stands."""
    if task.shard:
        return {}
    sums: Sums = {f"state.{task.phase}": 1}
    if task.phase == "published":
        sums["total_ms"] = total = max(0, task.ended_ms - task.submitted_ms)
        sums[f"total.{bucket(total)}"] = 1
        if task.started_ms:
            sums["run_ms"] = run = max(0, task.ended_ms - task.started_ms)
            sums[f"run.{bucket(run)}"] = 1
    if due_ms and (task.phase == "published" or task.phase in ("timed_out", "dead_lettered")):
        met = task.phase == "published" and task.ended_ms <= due_ms
        sums["slo.met" if met else "slo.missed"] = 1
    return sums


def taken(task: Task, worker: Worker | None, seconds: float) -> Sums:
    """What an attempt of the task held for so long: its devices, its cores (one where it names none), its share of the worker's price."""
    need = task.need
    gpus, cpu = (need.gpus, need.cpu or 1.0) if need is not None else (0, 1.0)
    sums: Sums = {"cpu_sec": cpu * seconds}
    if gpus:
        sums["gpu_sec"] = gpus * seconds
    if worker is not None and worker.cost_per_hour:
        share = gpus / max(gpus, len(worker.hardware.devices)) if gpus else 1 / max(1, worker.slots)
        sums["cost"] = worker.cost_per_hour * share * seconds / 3600
    return sums


def tokens(event: AttemptSucceeded) -> Sums:
    """The tokens and requests that a result's usage tells of."""
    usage: dict[str, Any] = event.usage
    return {
        f"usage.{name}": value
        for name in ("prompt_tokens", "completion_tokens", "total_tokens", "num_requests")
        if isinstance(value := usage.get(name), int | float) and not isinstance(value, bool) and value
    }
