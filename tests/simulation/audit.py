"""What must hold in every history, checked as each entry is appended, by rules that do not trust the fold."""

from __future__ import annotations

import re
from collections.abc import Callable

from mloc.core import codec
from mloc.core.cluster import Cluster
from mloc.core.events import (
    AttemptFailed,
    AttemptRecalled,
    AttemptStarted,
    AttemptStopped,
    AttemptStopRequested,
    AttemptSucceeded,
    Event,
    ServerRestarted,
    TaskCancelled,
    TaskDispatched,
    TaskSubmitted,
    TaskTimedOut,
    WorkerRegistered,
)
from mloc.core.fold import evolve
from mloc.core.task import FINAL
from mloc.core.worker import Attempt
from mloc.services.log.event_log import Entry
from mloc.services.log.memory_records import Writer

MOST_ENTRIES = 5000  # of a history of a few dozen tasks


class EndlessLog(BaseException):
    """Somebody appends for ever."""


class Audit:
    """Sees every entry of the log. `violation` is told what broke."""

    def __init__(self, violation: Callable[[str], None]) -> None:
        self._violation = violation
        self.cluster = Cluster()
        self._entries = 0
        self._incarnations: dict[str, int] = {}
        self._dispatched: set[tuple[str, int]] = set()
        self._started: set[tuple[str, int, int]] = set()
        self._recalled: set[tuple[str, int]] = set()
        self._stops: set[tuple[str, int, str, int]] = set()
        self._engines: dict[str, str] = {}  # by task
        self._devices_of: dict[tuple[str, str, int], tuple[int, ...]] = {}  # what (worker, task, attempt) holds
        self.joined = 0  # dispatches to devices in use
        self._first_outcome: dict[str, tuple[str, str]] = {}

    def __call__(self, entry: Entry, writer: Writer) -> None:
        event = codec.decode(entry.type, entry.payload)
        assert isinstance(event, Event)
        self._entries += 1
        if self._entries > MOST_ENTRIES:
            raise EndlessLog
        if writer.script == "commit" and writer.epoch != writer.leading_epoch:
            self._violation(f"epoch {writer.epoch} committed while {writer.leading_epoch} holds the lease")
        self._look(entry.id, event)
        touched = self.cluster.tasks.get(getattr(event, "task", ""))
        evolve(self.cluster, entry.id, event)
        if touched is not None and touched.phase in (*FINAL, "succeeded"):
            now = self.cluster.tasks[touched.id].phase
            if now != touched.phase and (touched.phase, now) != ("succeeded", "published"):
                self._violation(f"{touched.id} was {touched.phase} and became {now} by {entry.type}")

    def go_back(self, entries: list[Entry]) -> None:
        """The log lost its tail: what is left is the truth, but a number that a lost dispatch used must not come again."""
        dispatched = self._dispatched
        self.__init__(self._violation)  # type: ignore[misc]
        for entry in entries:
            self(entry, Writer(""))
        self._dispatched |= dispatched

    def _look(self, id: str, event: Event) -> None:
        match event:
            case TaskSubmitted():
                self._engines[event.task] = event.need.engine if event.need is not None and not event.need.gpu_memory else ""
            case TaskDispatched():
                self._look_at_dispatch(event)
            case AttemptStarted():
                self._once(self._started, (event.task, event.attempt, event.incarnation), "started")
                if (event.task, event.attempt) in self._recalled:
                    self._violation(f"attempt {event.attempt} of {event.task} was recalled and started")
            case AttemptRecalled():
                self._recalled.add((event.task, event.attempt))
                self._devices_of.pop((event.worker, event.task, event.attempt), None)
                if any(key[:2] == (event.task, event.attempt) for key in self._started):
                    self._violation(f"attempt {event.attempt} of {event.task} was started and recalled")
            case AttemptStopRequested():
                self._once(self._stops, (event.task, event.attempt, event.worker, event.incarnation), "asked to stop")
            case AttemptSucceeded() | AttemptFailed() | AttemptStopped():
                self._devices_of.pop((event.worker, event.task, event.attempt), None)
                if isinstance(event, AttemptSucceeded) and event.task in self.cluster.tasks:
                    self._first_outcome.setdefault(event.task, ("published", id))
            case TaskCancelled() | TaskTimedOut():
                self._first_outcome.setdefault(event.task, ("ended", id))
            case WorkerRegistered():
                self._incarnations[event.worker] = event.incarnation
                self._devices_of = {key: devices for key, devices in self._devices_of.items() if key[0] != event.worker}
                self._devices_of |= {(event.worker, held.task, held.attempt): held.devices for held in event.attempts}
            case ServerRestarted():
                self._incarnations.clear()  # a dispatch is right only after the next registration

    def _look_at_dispatch(self, event: TaskDispatched) -> None:
        self._once(self._dispatched, (event.task, event.attempt), "dispatched")
        if self._incarnations.get(event.worker) != event.incarnation:
            return  # the registration came first: void
        others = {key: held for key, held in self._devices_of.items() if key[0] == event.worker and not set(held).isdisjoint(event.devices)}
        self.joined += bool(others)
        for (_, task, attempt), held in others.items():
            if wrong := self._why_not_beside(event, task, attempt, held):
                self._violation(f"{event.task}#{event.attempt} was dispatched to {event.devices} of {event.worker}, where {task}#{attempt} {wrong}")
        self._devices_of[event.worker, event.task, event.attempt] = event.devices

    def _why_not_beside(self, event: TaskDispatched, task: str, attempt: int, held: tuple[int, ...]) -> str:
        """On devices in use only a task joins that wants the engine that has all of them, and none that is to end."""
        if not event.joins:
            return "is, and it was not to join that"
        if held != event.devices:
            return f"has {held}"
        if not self._engine_of(event.task) or self._engine_of(task) != self._engine_of(event.task):
            return f"has the engine {self._engine_of(task) or 'of its own'}, and not {self._engine_of(event.task)}"
        to_end = any(stop[:3] == (task, attempt, event.worker) for stop in self._stops)
        return "was asked to stop" if to_end else ""

    def _engine_of(self, task: str) -> str:
        return self._engines.get(re.sub(r"\.s\d+$", "", task), "")

    def _once(self, seen: set, key: tuple, what: str) -> None:
        if key in seen:
            self._violation(f"attempt {key[1]} of {key[0]} was {what} twice")
        seen.add(key)

    def check_end(self) -> None:
        """Every task ended; a success that came first is the result."""
        for task in self.cluster.tasks.values():
            if task.phase not in FINAL:
                self._violation(f"{task.id} never ended: it is {task.phase} ({task.reason})")
            outcome = self._first_outcome.get(task.id)
            if outcome is not None and outcome[0] == "published" and not task.children and task.result_id != outcome[1]:
                self._violation(f"the first success of {task.id} is {outcome[1]}, its result is {task.result_id or 'none'}")
        if left := self.held():
            self._violation(f"attempts are still held at the end: {left[:3]}")

    def held(self) -> list[Attempt]:
        return [attempt for attempt in self.cluster.holdings.all() if self.cluster.workers[attempt.worker].phase == "alive"]
