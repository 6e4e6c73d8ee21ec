"""One worker's state machine, and the attempts that it holds.

    WorkerRegistered ─▶ alive ─▶ lost (no sign of life) | retired (in good order);   a newer registration leads back to alive

What a worker holds is kept by (task, attempt), from the dispatch, void or not, to the attempt's own last event or to a registration that
does not list it: only then its devices are free.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from mloc.core.events import Hardware, Need, WorkerRegistered

MAX_TIMES = 16  # engines of a worker whose times are remembered
MISSED_BEATS = 3

AttemptKey = tuple[str, int]  # (task id, attempt number)


class Worker(Struct, frozen=True, omit_defaults=True, gc=False):
    """What the log says of one worker; liveness is not here, because folding never looks at a clock."""

    id: str
    incarnation: int
    phase: Literal["alive", "lost", "retired"] = "alive"
    run_id: str = ""
    draining: bool = False
    disabled: bool = False
    hardware: Hardware = Hardware()
    task_types: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    slots: int = 1
    cost_per_hour: float = 0.0
    engines: tuple[str, ...] = ()  # warm ones, the latest last
    batching: tuple[str, ...] = ()  # of the warm ones, those that answer several tasks in one batch
    asleep: tuple[str, ...] = ()  # engines off their device, in main memory
    engine_sec: dict[str, float] = {}  # engine → seconds that it last took to load here, or to fall asleep or wake; the latest last
    registered_ms: int = 0
    since_ms: int = 0
    versions: dict[str, str] = {}
    lacks: dict[str, str] = {}
    heartbeat_interval_ms: int = 0


class Attempt(Struct, frozen=True, omit_defaults=True, gc=False):
    """An attempt that a worker holds. `entry_id` is its dispatch's id in the log and in the inbox, empty where it was listed."""

    task: str
    number: int
    worker: str
    incarnation: int
    entry_id: str = ""
    devices: tuple[int, ...] = ()
    device_memory: int = 0  # bytes of each device; 0: all of it
    light: bool = False
    started: bool = False
    stop_asked: bool = False


def registered(before: Worker | None, event: WorkerRegistered, now_ms: int) -> Worker:
    return Worker(
        id=event.worker, incarnation=event.incarnation, run_id=event.run_id, draining=before.draining if before else False,
        disabled=before.disabled if before else False,
        hardware=event.hardware, task_types=frozenset(event.task_types), tags=frozenset(event.tags), slots=event.slots,
        cost_per_hour=event.cost_per_hour, engine_sec=before.engine_sec if before else {},
        registered_ms=now_ms, since_ms=now_ms, versions=event.versions, lacks=event.lacks, heartbeat_interval_ms=event.heartbeat_interval_ms,
    )  # fmt: skip


def not_offered(worker: Worker, need: Need) -> str:
    """What the worker lacks of what the need is of: the task type, or a part of it, as `lacks` names them; "" where it offers all."""
    return next(_not_offered(worker, need), "")


def why_not_offered(worker: Worker, need: Need) -> str:
    """What the worker says of all that it lacks of it, and what would help; "" where it said nothing."""
    return ", and ".join(words for named in _not_offered(worker, need) if (words := worker.lacks.get(named)))


def _not_offered(worker: Worker, need: Need) -> Iterator[str]:
    if need.task_type not in worker.task_types:
        yield need.task_type
        return
    yield from (named for part in need.parts if (named := part_of(need.task_type, part)) in worker.lacks)


def part_of(task_type: str, part: str) -> str:
    """How `lacks` names a part of a task type."""
    return f"{task_type}/{part}"


def is_silent(worker: Worker, silent_ms: int, ttl_ms: int) -> bool:
    """Whether it said nothing for too long: for `ttl_ms`, and at least for three of its own intervals, which may be longer than that."""
    return silent_ms > max(ttl_ms, MISSED_BEATS * worker.heartbeat_interval_ms)


def gone(worker: Worker, phase: Literal["lost", "retired"], now_ms: int) -> Worker:
    return replace(worker, phase=phase, since_ms=now_ms, engines=(), batching=(), asleep=())


def draining(worker: Worker, on: bool, now_ms: int) -> Worker:
    return replace(worker, draining=on, since_ms=now_ms)


def switched(worker: Worker, on: bool, now_ms: int) -> Worker:
    return replace(worker, disabled=not on, since_ms=now_ms)


def warmed(worker: Worker, engine: str, seconds: float, takes_several: bool) -> Worker:
    """The engine is ready for tasks, and `takes_several` of them at a time."""
    batching = _without(worker.batching, engine)
    return replace(
        worker, engines=(*_without(worker.engines, engine), engine), batching=(*batching, engine) if takes_several else batching,
        asleep=_without(worker.asleep, engine), engine_sec=_timed(worker.engine_sec, engine, seconds),
    )  # fmt: skip


def cooled(worker: Worker, engine: str, seconds: float, asleep: bool) -> Worker:
    """The engine left its device (`asleep`), or the worker."""
    rest = _without(worker.asleep, engine)
    # what it took to take the weights off is what it will take to put them back, until that was measured
    times = _timed(worker.engine_sec, engine, seconds) if asleep else worker.engine_sec
    return replace(
        worker, engines=_without(worker.engines, engine), batching=_without(worker.batching, engine),
        asleep=(*rest, engine) if asleep else rest, engine_sec=times,
    )  # fmt: skip


def seconds_to_ready(worker: Worker, engine: str) -> float:
    """How long the engine would take to be ready on the worker: 0 where it is, infinity where it was never there."""
    return 0.0 if engine in worker.engines else worker.engine_sec.get(engine, inf)


def _without(engines: tuple[str, ...], engine: str) -> tuple[str, ...]:
    return tuple(other for other in engines if other != engine)


def _timed(times: dict[str, float], engine: str, seconds: float) -> dict[str, float]:
    """With the new time, where one was measured."""
    if not seconds:
        return times
    kept = {other: sec for other, sec in times.items() if other != engine} | {engine: seconds}
    return dict(list(kept.items())[-MAX_TIMES:])
