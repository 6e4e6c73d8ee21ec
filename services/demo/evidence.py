"""What the log itself says of a job: how often each task was tried, lost and published. Pure, so that it is computed from the entries alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from mloc.core import log_ids
from mloc.core.events import (
    AttemptFailed,
    AttemptLost,
    AttemptStarted,
    AttemptSucceeded,
    Event,
    LeaderElected,
    ResultPublished,
    TaskRequeued,
    TaskSharded,
    TaskSubmitted,
    WorkerRegistered,
)


class Comeback(Struct, frozen=True):
    """A service leads in this epoch, or a worker is there as this incarnation, since `at_ms`."""

    number: int
    at_ms: int


class Evidence(Struct):
    """Counts by task of one job, and who led and registered since the log began."""

    submitted: list[str] = []  # with shards; parents too
    parents: set[str] = set()
    started: Counter[str] = Counter()
    succeeded: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    requeued: Counter[str] = Counter()
    published: Counter[str] = Counter()
    comebacks: dict[str, list[Comeback]] = {}  # by service: each time it began to lead; by worker: each time it registered

    @property
    def tried_again(self) -> list[str]:
        return [task for task, count in self.started.items() if count > 1]


def gathered(entries: Iterable[tuple[str, Event]], job: str) -> Evidence:
    """Of the whole log's (id, event)s what concerns this job."""
    found = Evidence(started=Counter(), succeeded=Counter(), failed=Counter(), lost=Counter(), requeued=Counter(), published=Counter())
    for id, event in entries:
        match event:
            case LeaderElected():
                found.comebacks.setdefault(event.service, []).append(Comeback(event.epoch, log_ids.time_ms(id)))
            case WorkerRegistered():
                found.comebacks.setdefault(event.worker, []).append(Comeback(event.incarnation, log_ids.time_ms(id)))
            case TaskSubmitted() if _is_of(event.task, job):
                found.submitted.append(event.task)
                if event.children:
                    found.parents.add(event.task)
            case TaskSharded() if _is_of(event.task, job):
                found.parents.add(event.task)
                found.submitted += [f"{event.task}.s{number}" for number in range(event.count)]
            case AttemptStarted() | AttemptSucceeded() | AttemptFailed() | AttemptLost() | TaskRequeued() | ResultPublished():
                if _is_of(event.task, job):
                    _counter_of(found, event)[event.task] += 1
            case _:
                pass
    return found


def objections(found: Evidence) -> list[str]:
    """Why the job did not end right; empty where each of its tasks was published exactly once, after a success where it runs by itself.

    A second success is none: the first one in the log is the result.
    """
    said = [f"{task} was published {found.published[task]} times" for task in found.submitted if found.published[task] != 1]
    leaves = [task for task in found.submitted if task not in found.parents]
    said += [f"{task} never succeeded" for task in leaves if not found.succeeded[task]]
    said += [f"{task} was published and never submitted" for task in found.published if task not in found.submitted]
    return said


def _counter_of(found: Evidence, event: Event) -> Counter[str]:
    match event:
        case AttemptStarted():
            return found.started
        case AttemptSucceeded():
            return found.succeeded
        case AttemptFailed():
            return found.failed
        case AttemptLost():
            return found.lost
        case TaskRequeued():
            return found.requeued
        case _:
            return found.published


def _is_of(task: str, job: str) -> bool:
    return task == job or task.startswith(job + ".")
