"""What the metrics service counts: a fold of its own, much smaller than the cluster's, kept on disk together with its position.

It follows the fold's rules where they decide a number (an event that no longer fits counts as an event, and changes no task), but knows no
placement, devices or reasons. A task in back-off counts as ready.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from mloc.core import log_ids
from mloc.core.events import (
    AttemptFailed,
    AttemptLost,
    AttemptRecalled,
    AttemptStarted,
    AttemptStopped,
    AttemptSucceeded,
    Event,
    ResultPublished,
    TaskCancelled,
    TaskDeadLettered,
    TaskDispatched,
    TaskRequeued,
    TaskSharded,
    TaskSubmitted,
    TaskTimedOut,
    WorkerLost,
    WorkerRegistered,
    WorkerRetired,
)  # fmt: skip
from mloc.services.metrics.histogram import LONG_SEC, SHORT_SEC, Histogram, histogram

WAITING, READY, DISPATCHED, RUNNING, SUCCEEDED, DEAD_LETTERED = range(6)
STATES = ("waiting", "ready", "dispatched", "running", "succeeded", "dead_lettered")
FORMAT = 1


class OpenTask(Struct, array_like=True, gc=False):
    """A task with attempts that has not ended. Times in ms."""

    task_type: str
    state: int
    ready_ms: int = 0  # since when it could have run
    pending: int = 0  # dependencies that are not published
    attempt: int = 0  # that is dispatched or runs
    succeeded_ms: int = 0


class Counts(Struct, gc=False):
    """All numbers at `position`; `entry_sha256` is of its payload, to find out whether the log is still the same."""

    format: int = FORMAT
    position: str = log_ids.START
    entry_sha256: str = ""
    tasks: dict[str, OpenTask] = {}
    by_state: list[int] = msgspec.field(default_factory=lambda: [0] * len(STATES))
    parents: dict[str, None] = {}  # open pipelines and sharded tasks
    dependants: dict[str, list[str]] = {}
    workers: dict[str, int] = {}  # alive → incarnation
    events: dict[str, int] = {}
    submitted: dict[str, int] = {}  # task type → tasks
    ended: dict[str, int] = {}  # published, cancelled, timed_out
    retries: int = 0
    failures: dict[str, int] = {}  # error type → attempts
    tokens: dict[str, dict[str, int]] = {}  # task type → kind of token
    workers_lost: int = 0
    last_published: str = log_ids.START
    dispatch: Histogram = msgspec.field(default_factory=lambda: histogram(SHORT_SEC))
    publication: Histogram = msgspec.field(default_factory=lambda: histogram(SHORT_SEC))
    runs: dict[str, Histogram] = {}  # task type → seconds of successful attempts

    def fold(self, id: str, now: int, type_: str, event: Event) -> None:
        """An entry of the log, which was appended at `now`, ms."""
        self.position = id
        self.events[type_] = self.events.get(type_, 0) + 1
        if (apply := _RULES.get(type(event))) is not None:
            apply(self, now, event)

    def move(self, task: OpenTask, state: int) -> None:
        self.by_state[task.state] -= 1
        self.by_state[state] += 1
        task.state = state

    def end(self, id: str, task: OpenTask, how: str) -> None:
        self.by_state[task.state] -= 1
        del self.tasks[id]
        self.ended[how] = self.ended.get(how, 0) + 1


Rule = Callable[[Counts, int, Any], None]


def _submitted(counts: Counts, now: int, event: TaskSubmitted) -> None:
    if event.children:
        counts.parents[event.task] = None
        return
    if event.task in counts.tasks:
        return
    unmet = [task for task in event.depends_on if task not in event.met and (task in counts.tasks or task in counts.parents)]
    for dependency in unmet:
        counts.dependants.setdefault(dependency, []).append(event.task)
    state = WAITING if unmet else READY
    counts.tasks[event.task] = OpenTask(event.task_type, state, now, len(unmet))
    counts.by_state[state] += 1
    counts.submitted[event.task_type] = counts.submitted.get(event.task_type, 0) + 1


def _sharded(counts: Counts, now: int, event: TaskSharded) -> None:
    task = counts.tasks.get(event.task)
    if task is None or task.state != READY:
        return
    counts.by_state[READY] += event.count - 1
    del counts.tasks[event.task]
    counts.parents[event.task] = None
    for index in range(event.count):
        counts.tasks[f"{event.task}.s{index}"] = OpenTask(task.task_type, READY, now)


def _dispatched(counts: Counts, now: int, event: TaskDispatched) -> None:
    task = counts.tasks.get(event.task)
    if task is not None and task.state == READY:
        task.attempt = event.attempt
        counts.move(task, DISPATCHED)


def _started(counts: Counts, now: int, event: AttemptStarted) -> None:
    task = counts.tasks.get(event.task)
    if task is not None and task.state == DISPATCHED and task.attempt == event.attempt:
        counts.move(task, RUNNING)
        counts.dispatch.observe((now - task.ready_ms) / 1000)


def _succeeded(counts: Counts, now: int, event: AttemptSucceeded) -> None:
    task = counts.tasks.get(event.task)
    if task is None or task.state == SUCCEEDED:
        return
    counts.move(task, SUCCEEDED)
    task.succeeded_ms = now
    runs = counts.runs.get(task.task_type)
    if runs is None:
        runs = counts.runs[task.task_type] = histogram(LONG_SEC)
    runs.observe(event.duration_ms / 1000)
    for name in ("prompt_tokens", "completion_tokens"):
        if isinstance(tokens := event.usage.get(name), int) and tokens:
            by_kind = counts.tokens.setdefault(task.task_type, {})
            by_kind[name] = by_kind.get(name, 0) + tokens


def _published(counts: Counts, now: int, event: ResultPublished) -> None:
    counts.last_published = counts.position
    task = counts.tasks.get(event.task)
    if task is not None and task.state == SUCCEEDED:
        counts.publication.observe((now - task.succeeded_ms) / 1000)
        counts.end(event.task, task, "published")
    elif counts.parents.pop(event.task, 0) == 0:
        return
    for dependant in counts.dependants.pop(event.task, ()):
        waiting = counts.tasks.get(dependant)
        if waiting is not None and waiting.state == WAITING:
            waiting.pending -= 1
            if waiting.pending <= 0:
                waiting.ready_ms = now
                counts.move(waiting, READY)


def _failed(counts: Counts, now: int, event: AttemptFailed) -> None:
    counts.failures[event.error.type] = counts.failures.get(event.error.type, 0) + 1
    _attempt_over(counts, now, event)


def _attempt_over(counts: Counts, now: int, event: AttemptFailed | AttemptLost | AttemptStopped | AttemptRecalled) -> None:
    task = counts.tasks.get(event.task)
    if task is not None and task.state in (DISPATCHED, RUNNING) and task.attempt == event.attempt:
        task.attempt, task.ready_ms = 0, now
        counts.move(task, READY)


def _requeued(counts: Counts, now: int, event: TaskRequeued) -> None:
    task = counts.tasks.get(event.task)
    if task is not None and task.state in (READY, DEAD_LETTERED):
        counts.retries += 1
        task.ready_ms = now + event.delay_ms
        counts.move(task, READY)


def _dead_lettered(counts: Counts, now: int, event: TaskDeadLettered) -> None:
    task = counts.tasks.get(event.task)
    if task is not None and task.state == READY:
        counts.move(task, DEAD_LETTERED)


def _cancelled(counts: Counts, now: int, event: TaskCancelled) -> None:
    counts.parents.pop(event.task, None)
    counts.dependants.pop(event.task, None)  # they are cancelled, too
    task = counts.tasks.get(event.task)
    if task is not None and task.state != SUCCEEDED:
        counts.end(event.task, task, "cancelled")


def _timed_out(counts: Counts, now: int, event: TaskTimedOut) -> None:
    task = counts.tasks.get(event.task)
    if task is not None and task.state == RUNNING and task.attempt == event.attempt:
        counts.end(event.task, task, "timed_out")


def _registered(counts: Counts, now: int, event: WorkerRegistered) -> None:
    counts.workers[event.worker] = event.incarnation
    for held in event.attempts:
        task = counts.tasks.get(held.task)
        if task is not None and task.state in (READY, DEAD_LETTERED):
            task.attempt = held.attempt
            counts.move(task, RUNNING)


def _gone(counts: Counts, now: int, event: WorkerLost | WorkerRetired) -> None:
    if counts.workers.get(event.worker) == event.incarnation:
        del counts.workers[event.worker]
        counts.workers_lost += isinstance(event, WorkerLost)


_RULES: dict[type[Event], Rule] = {
    TaskSubmitted: _submitted, TaskDispatched: _dispatched, AttemptStarted: _started, AttemptSucceeded: _succeeded, ResultPublished: _published,
    TaskSharded: _sharded, AttemptFailed: _failed, AttemptLost: _attempt_over, AttemptStopped: _attempt_over, AttemptRecalled: _attempt_over,
    TaskRequeued: _requeued, TaskDeadLettered: _dead_lettered, TaskCancelled: _cancelled, TaskTimedOut: _timed_out,
    WorkerRegistered: _registered, WorkerLost: _gone, WorkerRetired: _gone,
}  # fmt: skip
