"""One event as one line for a person, and which tasks and worker it is about."""

from __future__ import annotations

from mloc.core.codec import UnknownEvent
from mloc.core.events import (
    ArtifactStored,
    AttemptFailed,
    AttemptLost,
    AttemptRecalled,
    AttemptReport,
    AttemptStarted,
    AttemptStopped,
    AttemptStopRequested,
    AttemptSucceeded,
    CallbackFailed,
    CallbackMade,
    CancelRequested,
    CheckpointSaved,
    EngineReady,
    EngineSlept,
    EngineWoke,
    Event,
    FoldVersionActivated,
    LeaderElected,
    LogStarted,
    PolicyChanged,
    ResultExpired,
    ResultPublished,
    RetryRequested,
    RowsCompleted,
    ServerRestarted,
    TaskCancelled,
    TaskDeadLettered,
    TaskDispatched,
    TaskPriorityChanged,
    TaskRequeued,
    TaskSharded,
    TaskSubmitted,
    TaskTimedOut,
    WorkerDrainRequested,
    WorkerElasticChanged,
    WorkerLost,
    WorkerRegistered,
    WorkerRetired,
)  # fmt: skip

# what a person who looks for trouble stops at
FAILURES = frozenset({"AttemptFailed", "AttemptLost", "TaskDeadLettered", "TaskTimedOut", "WorkerLost"})


def task_of(event: Event | UnknownEvent) -> str:
    """The task that the event is about; "" where it is about none."""
    return getattr(event, "task", "")


def worker_of(event: Event | UnknownEvent) -> str:
    """The worker that the event is about; "" where it is about none."""
    return getattr(event, "worker", "")


def describe(event: Event | UnknownEvent) -> str:
    """What happened, beside the event's type and its task: one line."""
    match event:
        case AttemptReport():
            return f"attempt {event.attempt} on {event.worker}{_report(event)}"
        case TaskSubmitted() | TaskSharded() | TaskDispatched() | TaskRequeued() | TaskDeadLettered() | TaskTimedOut() | TaskCancelled():
            return _task(event)
        case AttemptRecalled() | AttemptStopRequested() | AttemptLost():
            reason = getattr(event, "reason", "")
            return f"attempt {event.attempt} on {event.worker}" + (f": {reason}" if reason else "")
        case CancelRequested() | RetryRequested() | TaskPriorityChanged() | PolicyChanged():
            return _request(event)
        case ArtifactStored():
            return f"{event.name}, {event.size_bytes:,} bytes" + (f", of attempt {event.attempt}" if event.attempt else "")
        case ResultPublished():
            return "the result is final" + (f", {event.size_bytes:,} bytes" if event.size_bytes else "")
        case CallbackMade() | CallbackFailed():
            return _callback(event)
        case ResultExpired():
            return "its time is over, its files are removed"
        case WorkerRegistered() | WorkerLost() | WorkerRetired() | WorkerDrainRequested() | WorkerElasticChanged():
            return _worker(event)
        case EngineReady() | EngineSlept() | EngineWoke():
            return f"{event.engine} on {event.worker}, {event.seconds:.3g} s"
        case _:
            return _log(event)


def _report(event: AttemptReport) -> str:
    match event:
        case AttemptSucceeded():
            return f", {event.duration_ms / 1000:.3g} s" if event.duration_ms >= 100 else f", {event.duration_ms:.2g} ms"
        case AttemptFailed():
            again = "" if event.error.retryable else " (trying again cannot help)"
            return f": {event.error.type}: {_first_line(event.error.message)}{again}"
        case AttemptStopped():
            return f": {event.reason}" if event.reason else ""
        case RowsCompleted():
            return f": {event.rows} more rows in {event.part}"
        case CheckpointSaved():
            return f": step {event.step}, {event.path.rstrip('/').rpartition('/')[2]}"
        case AttemptStarted() | _:
            return ""


def _task(
    event: TaskSubmitted | TaskSharded | TaskDispatched | TaskRequeued | TaskDeadLettered | TaskTimedOut | TaskCancelled,
) -> str:
    match event:
        case TaskSubmitted():
            parts = [event.task_type or f"pipeline of {len(event.children)}", event.kind, f"by {event.owner}" if event.owner else ""]
            return ", ".join(part for part in parts if part)
        case TaskSharded():
            return f"into {event.count} shards" + (f" of {event.items} items" if event.items else "")
        case TaskDispatched():
            devices = f", device {', '.join(map(str, event.devices))}" if event.devices else ""
            devices += ", joins the batch there" if event.joins else ""
            return f"attempt {event.attempt} to {event.worker}{devices}"
        case TaskRequeued():
            return event.reason + (f"; again in {event.delay_ms / 1000:g} s" if event.delay_ms else "")
        case TaskDeadLettered():
            return f"waits for a person: {event.error.type}: {_first_line(event.error.message)}"
        case TaskTimedOut():
            return f"attempt {event.attempt} ran longer than {event.timeout_sec:g} s"
        case TaskCancelled():
            return event.reason


def _request(event: CancelRequested | RetryRequested | TaskPriorityChanged | PolicyChanged) -> str:
    by = f"by {event.by}" if event.by else ""
    match event:
        case CancelRequested():
            return ": ".join(part for part in (by, event.reason) if part)
        case TaskPriorityChanged():
            return f"to {event.priority} {by}".rstrip()
        case PolicyChanged():
            return f"dispatch {event.dispatch} {by}".rstrip()
        case RetryRequested():
            return by


def _callback(event: CallbackMade | CallbackFailed) -> str:
    told = {"result": "the result was sent", "notice": "the webhook was called"}.get(event.what, event.what)
    if isinstance(event, CallbackMade):
        return f"{told}, answered with {event.status}"
    after = f"; again in {event.again_ms / 1000:.3g} s" if event.again_ms else "; given up"
    return f"{told.replace('was', 'could not be')}: {_first_line(event.error)}{after}"


def _worker(event: WorkerRegistered | WorkerLost | WorkerRetired | WorkerDrainRequested | WorkerElasticChanged) -> str:
    match event:
        case WorkerRegistered():
            held = f", holds {len(event.attempts)} attempts" if event.attempts else ""
            devices = f", {len(event.hardware.devices)} devices" if event.hardware.devices else ""
            return f"{event.worker} (incarnation {event.incarnation}): {event.slots} slots{devices}{held}"
        case WorkerLost():
            return f"{event.worker}: no sign of life for {event.silent_ms / 1000:.1f} s"
        case WorkerRetired():
            return f"{event.worker}" + (f": {event.reason}" if event.reason else "")
        case WorkerDrainRequested():
            return f"{event.worker} {'takes work again' if event.undo else 'takes no new work'}" + (f", by {event.by}" if event.by else "")
        case WorkerElasticChanged():
            by = (f", by {event.by}" if event.by else "") + (f": {event.reason}" if event.reason else "")
            return f"{event.worker} is switched {'on' if event.enabled else 'off'}{by}"


def _log(event: Event | UnknownEvent) -> str:
    match event:
        case LogStarted():
            return f"log {event.log_id}"
        case ServerRestarted():
            return f"server run {event.run_id[:12]}"
        case LeaderElected():
            return f"{event.service}, epoch {event.epoch}" + (f", {event.holder}" if event.holder else "")
        case FoldVersionActivated():
            return f"version {event.version}"
        case UnknownEvent():
            return "of a newer MLOC: this program does not know it"
        case _:
            return ""


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:300]
