"""What a person may ask of a task, and when asking makes no sense; for the API and the commands."""

from __future__ import annotations

from mloc.core.events import CancelRequested, Event, RetryRequested, TaskPriorityChanged
from mloc.core.task import ENDED, FINAL, Task


class RequestRefused(Exception):
    """The request would have no effect; the message says why, `hint` what would."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def cancel(task: Task, by: str, reason: str = "") -> Event:
    """Raises RequestRefused where the task has ended."""
    if task.phase in ENDED:
        raise RequestRefused(f"{task.id} cannot be cancelled: it is {words(task.phase)} already")
    return CancelRequested(task=task.id, by=by, reason=reason)


def retry(task: Task, by: str) -> Event:
    """Raises RequestRefused where the task does not wait for a person."""
    if task.phase == "dead_lettered":
        return RetryRequested(task=task.id, by=by)
    if task.phase in FINAL:
        raise RequestRefused(f"{task.id} cannot be retried: it is {words(task.phase)}", "submit it again")
    raise RequestRefused(f"{task.id} cannot be retried: it is {words(task.phase)}, not given up", "it goes on by itself")


def change_priority(task: Task, priority: object, by: str) -> Event:
    """Raises RequestRefused where the task has ended, ValueError for what is no priority."""
    if not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority <= 100:
        raise ValueError(f"priority takes a whole number from 0 to 100, not {priority!r}")
    if task.phase in FINAL:
        raise RequestRefused(f"the priority of {task.id} does not matter any more: it is {words(task.phase)}")
    return TaskPriorityChanged(task=task.id, priority=priority, by=by)


def words(phase: str) -> str:
    """A phase as people say it."""
    return phase.replace("_", " ")
