"""History once more under other conditions: another policy, more or fewer workers, another retry limit.

The real decisions (`scheduling`, `aggregation` of `core/decisions/`) are made on a virtual clock, for what people submitted and when. A task takes
as long, and fails as often, as it did. Workers are there from their first registration on and are never lost; a task that no attempt
ever ran takes the mean of its type.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Raw, Struct
from msgspec.structs import replace

from mloc.core import log_ids
from mloc.core.cluster import Cluster
from mloc.core.codec import UnknownEvent
from mloc.core.decisions import aggregation, scheduling
from mloc.core.decisions.aggregation import Done
from mloc.core.decisions.dispatch_policy import DEFAULT
from mloc.core.events import (
    AttemptFailed,
    AttemptRecalled,
    AttemptReport,
    AttemptStarted,
    AttemptStopped,
    AttemptStopRequested,
    AttemptSucceeded,
    CancelRequested,
    Error,
    Event,
    LogStarted,
    PolicyChanged,
    TaskDispatched,
    TaskPriorityChanged,
    TaskSubmitted,
    WorkerElasticChanged,
    WorkerRegistered,
)  # fmt: skip
from mloc.core.fold import evolve
from mloc.core.moment import Moment
from mloc.core.task import Task
from mloc.replay.measures import Measure, Measured
from mloc.replay.rebuild import LogDamaged, OnProgress, collector_off, rebuild
from mloc.services.log.event_log import Entry, EventLog

RUN = "what-if"
UNKNOWN_MS = 1000.0  # of a task whose type never ran
_MERGED = Done(b'{"ok": true}')


class Variant(Struct, frozen=True):
    """What is to be otherwise; the defaults change nothing."""

    policy: str = ""
    workers: int = 0  # that many, like those that were there, from the beginning; 0: those
    max_attempts: int = 0
    backoff_sec: float = -1.0


class Ran(Struct, frozen=True, gc=False):
    """One attempt of history: how long it ran, and its error where it failed."""

    ms: float
    error: Error | None = None


class WhatIf(Struct, frozen=True):
    """`was` is history itself, `same` the same conditions on the virtual clock, `then` the other ones. Compare the last two."""

    was: Measured
    same: Measured
    then: Measured
    guessed: int  # attempts of `then` whose duration history does not know


class Workload:
    """What came from outside, and how long it took. Made by looking at every event of history, in order."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Event]] = []
        self.fleet: dict[str, tuple[int, WorkerRegistered]] = {}
        self.policy = ""
        self._ran: dict[str, list[Ran]] = defaultdict(list)
        self._by_type: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])  # sum of ms, count
        self._shards: dict[str, float] = defaultdict(float)  # split task → ms of all its parts
        self._counts: dict[str, int] = {}  # → how many parts it had

    def look(self, now_ms: int, event: Event | UnknownEvent, cluster: Cluster) -> None:
        """Take an event in; `cluster` has folded it."""
        match event:
            case TaskSubmitted() | CancelRequested() | TaskPriorityChanged() | WorkerElasticChanged():
                self.asked.append((now_ms, event))
            case WorkerRegistered():
                self.fleet.setdefault(event.worker, (now_ms, replace(event, incarnation=1, run_id=RUN, attempts=())))
            case PolicyChanged() if not self._ran:  # one policy holds for all of a course: that of the first tasks
                self.policy = event.dispatch
            case AttemptSucceeded():
                self._note(event.task, Ran(event.duration_ms), cluster)
            case AttemptFailed():
                self._note(event.task, Ran(event.duration_ms, event.error), cluster)

    def _note(self, id: str, ran: Ran, cluster: Cluster) -> None:
        self._ran[id].append(ran)
        task = cluster.tasks.get(id)
        if task is not None and ran.error is None:
            total = self._by_type[task.task_type]
            total[0], total[1] = total[0] + ran.ms, total[1] + 1
            if task.shard:
                self._shards[task.parent] += ran.ms
                self._counts[task.parent] = task.shard[1]

    def ran(self, task: Task, attempt: int) -> tuple[Ran, bool]:
        """How the n-th attempt of a task (from 0) goes, and whether that is a guess."""
        known = self._ran.get(task.id)
        if known and (task.shard is None or task.shard[1] == self._counts.get(task.parent)):
            return (known[attempt], False) if attempt < len(known) else (known[-1], known[-1].error is not None)
        if whole := self._shards.get(task.parent if task.shard else task.id):  # split otherwise than it was: the same work in other parts
            return Ran(whole / (task.shard[1] if task.shard else 1)), False
        total, count = self._by_type.get(task.task_type, (0.0, 0.0))
        return Ran(total / count if count else UNKNOWN_MS), True


async def what_if(log: EventLog, variant: Variant, until: Moment | None = None, on_progress: OnProgress | None = None) -> WhatIf:
    """History up to a moment, and twice on a virtual clock. Raises LogDamaged, LogUnavailable."""
    workload = Workload()
    measures: list[Measure] = []

    def look(entry: Entry, event: Event | UnknownEvent, cluster: Cluster) -> None:
        if not measures:  # the first entry is LogStarted: no task is there yet
            measures.append(Measure(cluster))
        now_ms = log_ids.time_ms(entry.id)
        workload.look(now_ms, event, cluster)
        measures[0].look(now_ms)

    await rebuild(log, until, on_progress, look=look)
    if not measures:
        raise LogDamaged("the log is empty: nothing ran yet")
    with collector_off():
        same = Simulation(workload, Variant()).run(on_progress)
        then = Simulation(workload, variant)
        return WhatIf(measures[0].measured(), same, then.run(on_progress), then.guessed)


class Simulation:
    """One course of events for a workload."""

    def __init__(self, workload: Workload, variant: Variant) -> None:
        self._workload = workload
        self._variant = variant
        self._cluster = Cluster()
        self._measure = Measure(self._cluster)
        self._limits = scheduling.Limits(dispatch_policy=variant.policy or workload.policy or DEFAULT)
        self._now_ms = 0
        self._entries = 0
        self._pushed = 0
        self._coming: list[tuple[int, int, Event]] = []  # heap: ms, order, what people ask or which attempt ends
        self._tried: dict[str, int] = defaultdict(int)  # task → attempts that began
        self._queues: dict[str, deque[TaskDispatched]] = defaultdict(deque)  # worker → sent ahead of need
        self._in_slots: dict[str, set[tuple[str, int]]] = defaultdict(set)  # worker → attempts that hold one
        self.guessed = 0

    def run(self, on_progress: Callable[[int, str], None] | None = None) -> Measured:
        """To its end: when nothing comes any more and nothing that is due changes anything."""
        self._prepare()
        while True:
            while self._decide():
                pass
            due = self._cluster.next_due_ms()
            if self._coming and (due is None or self._coming[0][0] <= max(due, self._now_ms)):
                self._come()
            elif due is not None and due > self._now_ms:
                self._now_ms = due
            elif self._coming:  # something is due, but nobody takes it now
                self._come()
            else:
                return self._measure.measured()
            if on_progress:
                on_progress(self._entries, self._cluster.position)

    def _prepare(self) -> None:
        workload = self._workload
        self._now_ms = first_ms = min([at for at, _ in (*workload.asked[:1], *workload.fleet.values())], default=0)
        self._add(LogStarted(log_id=RUN, run_id=RUN))
        for at, event in (*self._fleet(first_ms), *((at, self._changed(event)) for at, event in workload.asked)):
            self._push(at, event)

    def _fleet(self, first_ms: int) -> Iterator[tuple[int, WorkerRegistered]]:
        known = list(self._workload.fleet.values())
        if not self._variant.workers or not known:
            yield from known
            return
        for number in range(self._variant.workers):
            copy, which = divmod(number, len(known))
            like = known[which][1]
            yield first_ms, replace(like, worker=f"{like.worker}-{copy + 1}") if copy else like

    def _changed(self, event: Event) -> Event:
        variant = self._variant
        if not isinstance(event, TaskSubmitted):
            return event
        event = replace(event, max_attempts=variant.max_attempts) if variant.max_attempts else event
        return replace(event, backoff_sec=variant.backoff_sec) if variant.backoff_sec >= 0 else event

    def _push(self, at_ms: float, event: Event) -> None:
        """The clock counts whole milliseconds: what ends within one has ended at its end."""
        self._pushed += 1
        heapq.heappush(self._coming, (math.ceil(at_ms), self._pushed, event))

    def _come(self) -> None:
        """All that comes at the next moment."""
        self._now_ms = max(self._now_ms, self._coming[0][0])
        while self._coming and self._coming[0][0] <= self._now_ms:
            event = heapq.heappop(self._coming)[2]
            if isinstance(event, AttemptReport):
                self._leave(event)
            else:
                self._add(event)

    def _add(self, event: Event) -> None:
        self._entries += 1
        evolve(self._cluster, f"{self._now_ms}-{self._entries}", event)
        self._measure.look(self._now_ms)

    def _decide(self) -> bool:
        """One round of scheduler and aggregator, and of the workers that take what they decided; whether anything happened."""
        effects = aggregation.decide(self._cluster, {})[1]
        published = aggregation.decide(self._cluster, dict.fromkeys(effects, _MERGED))[0]
        events = [*scheduling.decide(self._cluster, self._now_ms, {}, self._limits), *published]
        for event in events:
            self._add(event)
            match event:
                case TaskDispatched():
                    self._send(event)
                case AttemptRecalled():
                    queue = self._queues[event.worker]
                    self._queues[event.worker] = deque(sent for sent in queue if (sent.task, sent.attempt) != (event.task, event.attempt))
                case AttemptStopRequested():
                    self._leave(AttemptStopped(task=event.task, attempt=event.attempt, worker=event.worker, incarnation=event.incarnation))
        return bool(events)

    # --- workers ---
    def _send(self, sent: TaskDispatched) -> None:
        """Light work and work on a device begins at once; other work where a slot is free, in the order in which it came."""
        need = self._cluster.tasks[sent.task].need
        if need is not None and (need.light or need.gpus):
            self._begin(sent)
        else:
            self._queues[sent.worker].append(sent)
            self._fill(sent.worker)

    def _fill(self, worker: str) -> None:
        queue, in_slots = self._queues[worker], self._in_slots[worker]
        while queue and len(in_slots) < self._cluster.workers[worker].slots:
            sent = queue.popleft()
            in_slots.add((sent.task, sent.attempt))
            self._begin(sent)

    def _begin(self, sent: TaskDispatched) -> None:
        named: dict[str, Any] = {"task": sent.task, "attempt": sent.attempt, "worker": sent.worker, "incarnation": sent.incarnation}
        ran, is_guess = self._workload.ran(self._cluster.tasks[sent.task], self._tried[sent.task])
        self._tried[sent.task] += 1
        self.guessed += is_guess
        self._add(AttemptStarted(**named))
        if ran.error is not None:
            self._push(self._now_ms + ran.ms, AttemptFailed(error=ran.error, duration_ms=ran.ms, **named))
        else:
            self._push(self._now_ms + ran.ms, AttemptSucceeded(result=Raw(_MERGED.result), duration_ms=ran.ms, **named))

    def _leave(self, report: AttemptReport) -> None:
        if self._cluster.holdings.find(report.worker, (report.task, report.attempt)) is None:
            return  # it was stopped before its end came
        self._add(report)
        self._in_slots[report.worker].discard((report.task, report.attempt))
        self._fill(report.worker)
