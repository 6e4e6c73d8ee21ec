"""What a course of events came to: how long tasks waited and took, how busy workers were. Of history itself, or of one that was made up."""

from __future__ import annotations

from math import ceil

from msgspec import Struct

from mloc.core.cluster import Cluster
from mloc.core.task import Task


class Measured(Struct, frozen=True):
    """Seconds, but for the counts. Pipelines and split tasks themselves are left out: their parts are counted."""

    tasks: int
    published: int
    dead_lettered: int
    ended_otherwise: int  # cancelled or timed out
    open: int
    attempts: int
    makespan_sec: float  # from the first submission to the last end
    wait_mean_sec: float  # from being ready to the first start
    wait_p95_sec: float
    turnaround_mean_sec: float  # from submission to publication
    turnaround_p95_sec: float
    busy_sec: float  # of all attempts together
    workers: int
    cost: float  # of the busy time, by the workers' price


class Measure:
    """Looks at the tasks that each event touched. `cluster` is that of the fold, from its beginning."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        cluster.touched = {}
        self._ready_ms: dict[str, int] = {}
        self._waits: dict[str, int] = {}
        self._turnarounds: list[int] = []
        self._phases: dict[str, str] = {}
        self._first_ms = self._last_ms = 0
        self._attempts = 0
        self._busy_ms = 0.0
        self._cost = 0.0
        self._workers: set[str] = set()

    def look(self, now_ms: int) -> None:
        """After each event: take in what it changed."""
        touched = self._cluster.touched
        if not touched:
            return
        for id, (old, new) in touched.items():
            if not new.children:
                self._take(id, old, new, now_ms)
        touched.clear()

    def _take(self, id: str, old: Task | None, new: Task, now_ms: int) -> None:
        before = old.phase if old is not None else ""
        self._phases[id] = new.phase
        self._first_ms = self._first_ms or now_ms
        if new.phase == before:
            return
        if new.phase == "ready":
            self._ready_ms.setdefault(id, now_ms)
        elif new.phase == "running":
            self._attempts += 1
            self._waits.setdefault(id, now_ms - self._ready_ms.get(id, now_ms))
        if before == "running":
            self._busy(old, now_ms)
        if new.phase == "published":
            self._turnarounds.append(now_ms - new.submitted_ms)
        if new.phase in ("published", "dead_lettered", "cancelled", "timed_out"):
            self._last_ms = now_ms

    def _busy(self, task: Task | None, now_ms: int) -> None:
        if task is None:
            return
        took = max(0, now_ms - task.started_ms)
        worker = self._cluster.workers.get(task.worker)
        self._busy_ms += took
        self._cost += took / 3_600_000 * (worker.cost_per_hour if worker is not None else 0.0)
        self._workers.add(task.worker)

    def measured(self) -> Measured:
        """All that was taken in so far."""
        phases = list(self._phases.values())
        counted = {name: phases.count(name) for name in ("published", "dead_lettered", "cancelled", "timed_out")}
        waits, turnarounds = sorted(self._waits.values()), sorted(self._turnarounds)
        return Measured(
            tasks=len(phases), published=counted["published"], dead_lettered=counted["dead_lettered"],
            ended_otherwise=counted["cancelled"] + counted["timed_out"], open=len(phases) - sum(counted.values()), attempts=self._attempts,
            makespan_sec=max(0, self._last_ms - self._first_ms) / 1000, wait_mean_sec=_mean(waits), wait_p95_sec=_p95(waits),
            turnaround_mean_sec=_mean(turnarounds), turnaround_p95_sec=_p95(turnarounds), busy_sec=self._busy_ms / 1000,
            workers=len(self._workers), cost=self._cost,
        )  # fmt: skip


def _mean(ms: list[int]) -> float:
    return sum(ms) / len(ms) / 1000 if ms else 0.0


def _p95(ascending: list[int]) -> float:
    """The nearest rank."""
    return ascending[ceil(0.95 * len(ascending)) - 1] / 1000 if ascending else 0.0
