"""Folds entries and gathers what they changed, until the writer takes it."""

from __future__ import annotations

from mloc.core import log_ids
from mloc.core.cluster import Cluster
from mloc.core.events import AttemptFailed, AttemptLost, AttemptStopped, AttemptSucceeded, TaskSubmitted
from mloc.core.fold import evolve
from mloc.core.task import FINAL
from mloc.services.log.event_log import Entry
from mloc.services.observer import decoded
from mloc.services.read_model.outcomes import Sums, add_sums, promised_ms, taken, tokens
from mloc.services.read_model.writer import Changes, SumsKey

_ENDS = (AttemptSucceeded, AttemptFailed, AttemptStopped, AttemptLost)


class Gathering:
    """`cluster` is the fold so far; `due` says when open tasks with an objective are due, ms."""

    def __init__(self, cluster: Cluster, due: dict[str, int]) -> None:
        self.cluster = cluster
        self._due = due
        self._changes = Changes()

    def start(self) -> None:
        """From here on the tables lack what changes."""
        self.cluster.touched = {}

    def fold(self, entry: Entry) -> None:
        cluster = self.cluster
        event = decoded(entry)
        is_wanted = cluster.touched is not None
        if is_wanted and isinstance(event, _ENDS):
            self._note_end(entry.id, event)
        evolve(cluster, entry.id, event)
        if isinstance(event, TaskSubmitted):
            cluster.specs.pop(event.task, None)  # the log keeps it, and this fold places nothing
            if is_wanted:
                self._note_submission(entry.id, event)

    def count(self) -> int:
        """Changed tasks that the tables lack."""
        return len(self.cluster.touched or ())

    def take(self) -> Changes:
        """Everything gathered since the last time."""
        changes, self._changes = self._changes, Changes()
        changes.touched, self.cluster.touched = self.cluster.touched or {}, {}
        for id, (_, new) in changes.touched.items() if self._due else ():
            if due_ms := self._due.get(id):
                changes.due[id] = due_ms
                if new.phase in FINAL:
                    del self._due[id]
        return changes

    def _note_submission(self, id: str, event: TaskSubmitted) -> None:
        due_ms = promised_ms(event, log_ids.time_ms(id))
        self._changes.submitted[event.task] = (id, due_ms)
        if due_ms:
            self._due[event.task] = due_ms

    def _note_end(self, id: str, event: AttemptSucceeded | AttemptFailed | AttemptStopped | AttemptLost) -> None:
        """What the attempt took, before the fold forgets when it began. One that never started took nothing."""
        task = self.cluster.tasks.get(event.task)
        if task is None:
            return
        sums: Sums = {}
        seconds = getattr(event, "duration_ms", 0.0) / 1000
        if not seconds and task.current == event.attempt and task.phase in ("running", "orphaned") and task.started_ms:
            seconds = max(0, log_ids.time_ms(id) - task.started_ms) / 1000
        if seconds:
            sums |= taken(task, self.cluster.workers.get(event.worker), seconds)
        if isinstance(event, AttemptSucceeded):
            sums |= tokens(event)
        add_sums(self._changes.taken.setdefault(SumsKey.of(task), {}), sums)
