"""A task that the log holds, also one that left memory long ago: what was submitted, what it gave, and its submission once more."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from msgspec import Struct

from mloc.core import codec
from mloc.core.events import AttemptSucceeded, ResultPublished, TaskSubmitted
from mloc.core.language.errors import did_you_mean
from mloc.core.resubmission import submitted_again
from mloc.replay.as_of import TaskUnknown
from mloc.replay.entries import entries
from mloc.replay.rebuild import OnProgress, rebuild
from mloc.services.clock import SystemClock
from mloc.services.intake.known_tasks import KnownTasks
from mloc.services.intake.published_results import result_file
from mloc.services.intake.submission import DependencyError, Submission
from mloc.services.intake.submitter import Submitter
from mloc.services.intake.task_ids import TaskIds
from mloc.services.log.event_log import EventLog
from mloc.services.results.folders import RESULT_FILE

_SUBMITTED = "TaskSubmitted"
_RESULTS = ("AttemptSucceeded", "ResultPublished")


class NotAgain(Exception):
    """The task cannot be submitted again by itself; the message says what can be done."""


class NoOutput(Exception):
    """The task gave no result, or it is kept no longer."""


class Again(Struct, frozen=True):
    """A submission made anew: `tasks` are (old id, new id)."""

    submission: Submission
    tasks: tuple[tuple[str, str], ...]


async def family_of(log: EventLog, named: str, on_progress: OnProgress | None = None) -> list[TaskSubmitted]:
    """The task of this id, else the newest of this name, and its stages. Raises TaskUnknown, LogUnavailable."""
    families: dict[str, list[TaskSubmitted]] = {}  # of tasks that may be meant: id → submissions
    names: dict[str, str] = {}
    read = 0
    async for batch in entries(log):
        for entry in batch:
            if entry.type != _SUBMITTED:
                continue
            event = codec.decode(entry.type, entry.payload)
            assert isinstance(event, TaskSubmitted)
            names[event.task] = event.name
            if named in (event.task, event.name):
                families[event.task] = [event]
            elif event.parent in families:
                families[event.parent].append(event)
        read += len(batch)
        if on_progress:
            on_progress(read, batch[-1].id)
    if named in families:
        return families[named]
    if families:
        return families[next(reversed(families))]
    hint = did_you_mean(named, [word for id, name in names.items() for word in (id, name) if word][-20_000:])
    raise TaskUnknown(f"the log holds no task {named!r}; {hint or '`mloc-intake list` shows what there is'}")


async def again(log: EventLog, family: list[TaskSubmitted], results_dir: Path) -> Again:
    """The family's submission under new ids, with its secrets. Raises NotAgain, LogUnavailable."""
    root = family[0]
    if root.parent:
        raise NotAgain(
            f"{root.task} is a stage of {root.parent}, whose other stages it needs: `mloc-replay task {root.parent}` submits them all again, "
            f"`mloc-intake retry {root.task}` runs this one again where it failed"
        )
    ids = TaskIds(time.time, secrets.randbelow)
    events, new = submitted_again(family, ids.new, await _met(log, family, results_dir))
    kept = {new[event.task]: values for event in family if _has_secrets(event) and (values := await log.secrets(event.task))}
    lost = [event.task for event in family if _has_secrets(event) and new[event.task] not in kept]
    if lost:
        raise NotAgain(f"the secrets of {lost[0]} are kept no longer: submit its file again")
    return Again(Submission(events, kept), tuple(new.items()))


def _has_secrets(event: TaskSubmitted) -> bool:
    return event.has_secrets or b"${secret." in bytes(event.spec)  # the flag is younger than the log may be


async def submit(log: EventLog, submission: Submission, backlog_limit: int) -> None:
    """Append it whole. Raises BacklogFull, LogUnavailable."""
    await Submitter(log, SystemClock(), backlog_limit).submit(submission, 0)


async def output_of(log: EventLog, task: str, results_dir: Path) -> bytes | Path:
    """What the task gave: its result as JSON, or the file that holds it. Raises NoOutput, LogUnavailable, UnsafePath."""
    inline: bytes = b""
    published = False
    async for batch in entries(log):
        for entry in batch:
            if entry.type in _RESULTS and f'"{task}"'.encode() in entry.payload:
                event = codec.decode(entry.type, entry.payload)
                if isinstance(event, AttemptSucceeded | ResultPublished) and event.task == task and not published:
                    inline = bytes(event.result) or inline
                    published = isinstance(event, ResultPublished)
    if inline:
        return inline
    file = result_file(results_dir, task, RESULT_FILE) if published else None
    if file is None:
        where = f"its result is no longer in {results_dir}" if published else "it has not been published"
        raise NoOutput(f"{task} gave nothing that can be shown: {where}")
    return file


async def _met(log: EventLog, family: list[TaskSubmitted], results_dir: Path) -> dict[str, str]:
    """Results of tasks outside of the family that it waits for: id → entry. Raises NotAgain."""
    own = {event.task for event in family}
    outside = sorted({id for event in family for id in event.depends_on} - own)
    if not outside:
        return {}
    known = KnownTasks((await rebuild(log)).cluster, results_dir)
    before = {id: result for event in family for id, result in event.met.items()}
    met = {}
    for id in outside:
        try:
            result_id = known.find(id).result_id
        except DependencyError as error:
            if id not in before:
                raise NotAgain(f"{family[0].task} depends on {id}: {error}") from error
            result_id = before[id]
        if result_id is not None:
            met[id] = result_id
    return met
