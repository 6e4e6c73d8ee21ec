"""What follows a failed attempt: another one after linear back-off, or a person."""

from __future__ import annotations

from mloc.core.events import Error, TaskDeadLettered, TaskRequeued
from mloc.core.task import Task

MAX_BACKOFF_SEC = 120.0


def after_failure(task: Task) -> TaskRequeued | TaskDeadLettered:
    """The decision for a task in phase `failed`. Back-off grows linearly with the failures, up to 120 s."""
    error = task.error or Error("Unknown", "the attempt failed without an error")
    if not error.retryable:
        return TaskDeadLettered(task=task.id, attempt=task.last, error=error)
    if task.failures >= task.max_attempts:
        return TaskDeadLettered(task=task.id, attempt=task.last, error=error)
    delay = min(task.backoff_sec * task.failures, MAX_BACKOFF_SEC)
    reason = f"attempt {task.tries} failed ({error.type}); failure {task.failures} of at most {task.max_attempts}"
    return TaskRequeued(task=task.id, attempt=task.last, reason=reason, delay_ms=int(delay * 1000))
