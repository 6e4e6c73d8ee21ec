"""Histories as real services write them: the real deciders on a clock of their own, with workers that do what they are told.

    history = History(); history.worker("w1"); history.submit("a"); history.settle(); history.entries
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from mloc.core import codec, log_ids
from mloc.core.cluster import Cluster
from mloc.core.decisions import aggregation, scheduling
from mloc.core.events import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    Device,
    Error,
    Event,
    Hardware,
    LogStarted,
    Need,
    TaskSubmitted,
    WorkerRegistered,
)  # fmt: skip
from mloc.core.fold import evolve
from mloc.services.log.event_log import Entry

START_MS = 1_700_000_000_000  # 2023-11-14 22:13:20 UTC
Outcome = Callable[[str, int], Error | dict[str, Any] | None]  # (task, attempt) → error, result, or None to run on


class History:
    """A log that is written here and now; every step takes `step_ms`."""

    def __init__(self, step_ms: int = 250, outcome: Outcome = lambda task, attempt: {"ok": True, "items": []}) -> None:
        self.entries: list[Entry] = []
        self.cluster = Cluster()
        self.now_ms = START_MS
        self._step_ms = step_ms
        self._outcome = outcome
        self.add(LogStarted(log_id="log-of-a-test", run_id="run-1"))

    def add(self, event: Event) -> str:
        """Append and fold one event."""
        self.now_ms += self._step_ms
        id = f"{self.now_ms}-0"
        self.entries.append(Entry(id, codec.type_of(event), codec.encode(event)))
        evolve(self.cluster, id, codec.decode(self.entries[-1].type, self.entries[-1].payload))  # as every reader does
        return id

    def worker(
        self, name: str, *, slots: int = 2, devices: int = 0, types: tuple[str, ...] = ("echo", "sft", "inference"), incarnation: int = 1
    ) -> None:
        hardware = Hardware(name, 8, 32 * 2**30, tuple(Device(i, "NVIDIA H200", 141 * 2**30) for i in range(devices)))
        self.add(WorkerRegistered(worker=name, incarnation=incarnation, run_id="run-1", hardware=hardware, task_types=types, slots=slots))

    def submit(self, task: str, task_type: str = "echo", **fields: Any) -> None:
        spec = msgspec.json.encode({"taskType": task_type, "data": {"items": [task]}})
        need = fields.pop("need", None) or Need(task_type)
        self.add(TaskSubmitted(task=task, name=task, kind="Task", task_type=task_type, spec=Raw(spec), need=need, owner="ada", **fields))

    def pipeline(self, task: str, stages: dict[str, str]) -> None:
        """A chain of stages: name → task type."""
        ids = [f"{task}.{name}" for name in stages]
        self.add(TaskSubmitted(task=task, name=task, kind="Pipeline", children=tuple(ids), owner="ada"))
        for i, (name, task_type) in enumerate(stages.items()):
            self.submit(ids[i], task_type, parent=task, stage=name, depends_on=tuple(ids[i - 1 : i]) if i else ())

    def decide(self) -> int:
        """One round of scheduler and aggregator; the number of answers."""
        merged = dict.fromkeys(aggregation.decide(self.cluster, {})[1], aggregation.Done(b'{"ok": true, "items": []}'))
        events = [*scheduling.decide(self.cluster, self.now_ms, {}, scheduling.Limits()), *aggregation.decide(self.cluster, merged)[0]]
        for event in events:
            self.add(event)
        return len(events)

    def work(self, most: int = 1000) -> int:
        """Workers start what was sent to them and end it as `outcome` says; the number of attempts that moved."""
        moved = 0
        for attempt in list(self.cluster.holdings.all()):
            if moved >= most:
                break
            named: dict[str, Any] = {
                "task": attempt.task, "attempt": attempt.number, "worker": attempt.worker, "incarnation": attempt.incarnation
            }  # fmt: skip
            outcome = self._outcome(attempt.task, attempt.number)
            if not attempt.started:
                self.add(AttemptStarted(**named))
                moved += 1
            elif isinstance(outcome, Error):
                self.add(AttemptFailed(error=outcome, duration_ms=700.0, **named))
                moved += 1
            elif outcome is not None:
                self.add(AttemptSucceeded(result=Raw(msgspec.json.encode(outcome)), duration_ms=900.0, **named))
                moved += 1
        return moved

    def settle(self, rounds: int = 200) -> None:
        """Until nothing moves any more (attempts whose outcome is None run on); back-offs are waited for."""
        for _ in range(rounds):
            before = len(self.entries)
            while self.decide():
                pass
            self.work()
            due = self.cluster.next_due_ms()
            if len(self.entries) == before:
                if due is None:
                    return
                self.now_ms = max(self.now_ms, due)


class HistoryLog:
    """The reading half of an EventLog over a history."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def read(self, after: str, count: int = 256, block_ms: int = 0) -> list[Entry]:
        entries = self._history.entries
        start = bisect.bisect_right(entries, log_ids.key(after), key=lambda entry: log_ids.key(entry.id))
        return entries[start : start + count]

    async def entry(self, id: str) -> Entry | None:
        return next((entry for entry in self._history.entries if entry.id == id), None)

    async def ends(self) -> tuple[str, str]:
        entries = self._history.entries
        return (entries[0].id, entries[-1].id) if entries else (log_ids.START, log_ids.START)

    async def now_ms(self) -> int:
        return self._history.now_ms

    async def close(self) -> None: ...
