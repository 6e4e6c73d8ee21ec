"""Which trees follow from which events: a small fold of its own, so that every tree can be written again from the log."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct

from mloc.core import log_ids
from mloc.core.events import (
    ArtifactStored,
    AttemptSucceeded,
    Error,
    Event,
    ResultPublished,
    TaskCancelled,
    TaskDeadLettered,
    TaskSharded,
    TaskSubmitted,
    TaskTimedOut,
)  # fmt: skip
from mloc.core.failure import cancellation, timeout
from mloc.services.results.manifest import Origin
from mloc.services.results.origins import mentions_result, wishes_of
from mloc.services.results.tree_cursor import Note, TreeState

TYPES = {
    cls.__struct_config__.tag: cls
    for cls in (TaskSubmitted, TaskSharded, AttemptSucceeded, ResultPublished, TaskDeadLettered, TaskCancelled, TaskTimedOut, ArtifactStored)
}
KEPT_BYTES = 32 * 1024 * 1024  # of results between success and publication; what does not fit is read from the log again
_NO_NOTE = Note()


def matters(event: TaskSubmitted) -> bool:
    """Whether a submission says anything that its tree needs: most do not."""
    return event.need is None or not event.need.light or mentions_result(event.spec)


class Draft(Struct, gc=False):
    """A tree that is due. What `result_id` and `telemetry` name is still to be read."""

    origin: Origin
    folder: str
    result: bytes = b""
    ok: bool = True
    is_written: bool = False
    result_id: str = ""  # entry with the inline result
    telemetry: tuple[str, ...] = ()  # tasks
    destination: str = ""
    logs: tuple[tuple[str, bytes], ...] = ()


class TreeFold:
    """Folds entries in log order into `state`; `TYPES` are those that matter. `versions_of` a worker go into the manifests."""

    def __init__(self, state: TreeState, versions_of: Callable[[str], dict[str, str]]) -> None:
        self.state = state
        self._versions_of = versions_of
        self._successes: dict[str, tuple[str, AttemptSucceeded]] = {}  # task → (entry, event), inline ones that are not published yet
        self._kept_bytes = 0
        self._siblings: tuple[str, list[str]] = ("", [])  # a pipeline and those of its stages that have a destination

    def fold(self, id: str, event: Event) -> list[Draft]:
        match event:
            case AttemptSucceeded():
                self._remember(id, event)
            case ResultPublished():
                return self._published(id, event)
            case ArtifactStored():
                return self._uploaded(event)
            case TaskSubmitted():
                self._note(event)
            case TaskSharded():
                self.state.sharded[event.task] = event.count
            case TaskDeadLettered():
                return self._failed(event.task, event.attempt, event.error)
            case TaskCancelled():
                drafts = self._failed(event.task, 0, cancellation(event.reason), with_parents=False)
                self._end(id, event.task)
                return drafts
            case TaskTimedOut():
                drafts = self._failed(event.task, event.attempt, timeout(event.timeout_sec), with_parents=False)
                self._end(id, event.task)
                return drafts
        return []

    def settle(self, position: str) -> None:
        """Forget what only trees up to `position` needed."""
        self.state.settled = position
        ended = self.state.ended
        while ended and not log_ids.before(position, next(iter(ended.values()))):
            task = next(iter(ended))
            del ended[task]
            self.state.notes.pop(task, None)
            self.state.sharded.pop(task, None)

    # --- what will be needed ---

    def _note(self, event: TaskSubmitted) -> None:
        need = event.need
        has_telemetry = need is not None and not need.light
        wishes = wishes_of(event.spec)
        if not (has_telemetry or wishes.declared or wishes.destination or wishes.seed is not None):
            return
        destination = wishes.destination
        if destination and event.parent:
            destination = self._own_destination(event, destination)
        self.state.notes[event.task] = Note(wishes.declared, destination, wishes.seed, has_telemetry)

    def _own_destination(self, event: TaskSubmitted, wanted: str) -> str:
        """Stages that have one destination from their pipeline each get a folder in it. They are submitted one right after the other."""
        if self._siblings[0] != event.parent:
            self._siblings = (event.parent, [])
        parent, before = self._siblings
        if event.stage in before:  # folded again
            return self.state.notes[event.task].destination
        own = {stage: f"{wanted.rstrip('/')}/{stage}" for stage in (*before, event.stage)}
        shared = False
        for stage in before:
            note = self.state.notes[f"{parent}.{stage}"]
            shared |= note.destination in (wanted, own[stage])
            if note.destination == wanted:
                self.state.notes[f"{parent}.{stage}"] = Note(note.declared, own[stage], note.seed, note.has_telemetry)
        before.append(event.stage)
        return own[event.stage] if shared else wanted

    def _remember(self, id: str, event: AttemptSucceeded) -> None:
        if not event.result or event.files:
            return
        self._drop(event.task)
        self._kept_bytes += len(memoryview(event.result)) + 500
        if self._kept_bytes > KEPT_BYTES:
            self._successes.clear()
            self._kept_bytes = 0
        self._successes[event.task] = (id, event)

    def _drop(self, task: str) -> tuple[str, AttemptSucceeded] | None:
        success = self._successes.pop(task, None)
        if success is not None:
            self._kept_bytes -= len(memoryview(success[1].result)) + 500
        return success

    def _end(self, id: str, task: str) -> None:
        if task in self.state.notes or task in self.state.sharded:
            self.state.ended[task] = id

    # --- what is due ---

    def _published(self, id: str, event: ResultPublished) -> list[Draft]:
        task, state = event.task, self.state
        success = self._drop(task)
        if state.sharded and self._is_shard(task):
            return []
        note = state.notes.get(task, _NO_NOTE)
        telemetry: tuple[str, ...] = (task,) if note.has_telemetry else ()
        if shards := state.sharded.get(task):
            telemetry = tuple(f"{task}.s{index}" for index in range(shards)) if note.has_telemetry else ()
        self._end(id, task)
        if success is not None and success[0] == event.cause:
            worker, result, result_id = success[1].worker, bytes(success[1].result), ""
        else:
            worker, result, result_id = "", bytes(event.result), "" if event.result or event.files else event.cause
        origin = Origin(task, event.attempt, worker, event.cause or id, self._versions_of(worker), note.seed, note.declared)
        return [
            Draft(origin, task, result, is_written=event.files, result_id=result_id, telemetry=telemetry, destination=note.destination)
        ]

    def _uploaded(self, event: ArtifactStored) -> list[Draft]:
        """The tree takes it in where it is there; else it does when it is written."""
        if event.attempt or self._is_shard(event.task):
            return []
        return [Draft(Origin(event.task), event.task, is_written=True)]

    def _failed(self, task: str, attempt: int, error: Error, *, with_parents: bool = True) -> list[Draft]:
        """The task's own tree, and for a dead letter those of its pipeline and sharded task: they wait for a person, too."""
        drafts = []
        failing, said = task, error.message
        while failing:
            if not self._is_shard(failing):
                note = self.state.notes.get(failing, _NO_NOTE)
                result = msgspec.json.encode({"ok": False, "error": {"type": error.type, "message": said, "retryable": error.retryable}})
                origin = Origin(failing, attempt if failing == task else 0, seed=note.seed, declared=note.declared)
                telemetry = (task,) if failing == task and note.has_telemetry else ()
                drafts.append(Draft(origin, failing, result, ok=False, telemetry=telemetry, destination=note.destination))
            failing, said = (failing.rpartition(".")[0], f"{task}: {error.message}") if with_parents else ("", "")
        return drafts

    def _is_shard(self, task: str) -> bool:
        parent, _, number = task.rpartition(".s")
        return number.isdigit() and parent in self.state.sharded


