"""Every event of the control log, in the past tense (requests end in `Requested`).

An event is a frozen tagged Struct. Events are for ever: a new field has a default; a changed meaning gets a new tag with a version
(`TaskSubmitted@2`) and an upcaster in `codec`. Times are not in the events: an event happened at the millisecond part of its log id.
`cause` is the id of the entry that the event answers, for tracing only.
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct

INLINE_RESULT_BYTES = 64 * 1024  # a larger result is a file, and the event has its digest
ABSENT = Raw(b"")  # no JSON: left out of the entry, because it is the fields' very default


def raw(data: bytes) -> Raw:
    """JSON bytes as a field of an event; empty bytes become `ABSENT`, any other empty Raw would make a malformed entry."""
    return Raw(data) if data else ABSENT


class Event(Struct, frozen=True, tag=True, tag_field="type", omit_defaults=True, kw_only=True, gc=False):
    """What all events share."""

    cause: str = ""


# --- values inside events ------------------------------------------------------------------------------------------------------------


class Need(Struct, frozen=True, omit_defaults=True, gc=False, cache_hash=True):
    """What placement must find on a worker for one task. Tasks with equal needs share one ready queue."""

    task_type: str
    light: bool = False  # milliseconds of work: no process, slot or device of its own
    gpus: int = 0
    gpu_type: str = "any"
    gpu_memory: int = 0  # bytes a device; 0 takes the whole device
    cpu: float = 0.0  # cores
    memory: int = 0  # bytes
    tags: tuple[str, ...] = ()
    engine: str = ""  # key of the engine that the task would find warm; preferred, never required
    parts: tuple[str, ...] = ()  # of its task type, that a worker may lack though it offers the type: lm-eval, wandb


class Parallel(Struct, frozen=True, omit_defaults=True, gc=False):
    """How a data-parallel task may be split."""

    shards: int = 0  # 0: as many as there are workers with room
    max_shards: int = 64
    min_items_per_shard: int = 1


class Error(Struct, frozen=True, omit_defaults=True, gc=False):
    """Why an attempt failed, for a person; `retryable` says whether trying again can help."""

    type: str
    message: str
    retryable: bool = True


class Device(Struct, frozen=True, omit_defaults=True, gc=False):
    """One accelerator of a worker."""

    index: int
    name: str
    memory: int  # bytes


class Hardware(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a worker measured of itself when it registered."""

    hostname: str = ""
    cpus: float = 1.0
    memory: int = 0  # bytes
    devices: tuple[Device, ...] = ()


class HeldAttempt(Struct, frozen=True, omit_defaults=True, gc=False):
    """An attempt that a worker lists when it registers: it runs, or its last report is not acknowledged yet."""

    task: str
    attempt: int
    devices: tuple[int, ...] = ()
    light: bool = False


class Receiver(Struct, frozen=True, omit_defaults=True, gc=False):
    """Who is told of a task's end over HTTP: with the whole `result`, or by a `notice` that it ended and how. Texts may hold references."""

    what: str
    url: str
    method: str = "POST"
    headers: dict[str, str] = {}
    timeout_sec: float = 0.0  # 0: as the setting says
    on: tuple[str, ...] = ()  # the ends that are told (succeeded, failed, cancelled, timed_out); empty: all
    secret: str = ""  # signs the notice


# --- the log and its services ----------------------------------------------------------------------------------------------------------


class LogStarted(Event, frozen=True):
    """The first entry of a control log."""

    log_id: str
    run_id: str = ""  # of the server that took the entry
    fold_version: int = 1


class ServerRestarted(Event, frozen=True):
    """The log is served by another server run; what it had acknowledged may be gone if it did not write every entry to disk."""

    run_id: str


class LeaderElected(Event, frozen=True):
    service: str
    epoch: int
    holder: str = ""


class FoldVersionActivated(Event, frozen=True):
    """From here on the fold follows the rules of this version."""

    version: int


class PolicyChanged(Event, frozen=True):
    """New values for named policy settings; names that are absent keep theirs."""

    dispatch: str = ""
    by: str = ""


# --- requests of people --------------------------------------------------------------------------------------------------------------


class TaskSubmitted(Event, frozen=True):
    """A task was accepted. A pipeline comes first and names its `children`, whose own events follow in the same append."""

    task: str
    name: str = ""
    kind: str = ""
    task_type: str = ""  # empty for a pipeline
    spec: Raw = ABSENT  # JSON of the task's spec; empty for a pipeline
    spec_digest: str = ""  # sha256, hex, of the spec
    need: Need | None = None  # None for a pipeline
    owner: str = ""
    project: str = ""
    labels: dict[str, str] = {}
    priority: int = 50  # 0 to 100, larger first
    parent: str = ""
    stage: str = ""  # the task's name inside its pipeline
    children: tuple[str, ...] = ()  # stages of a pipeline, in order
    depends_on: tuple[str, ...] = ()  # ids of tasks whose published results this one waits for
    met: dict[str, str] = {}  # those of them that were published before: task → entry of its result
    parallel: Parallel | None = None
    items: int = 0  # input rows known at intake, for sharding
    max_attempts: int = 3
    backoff_sec: float = 10.0
    timeout_sec: float = 0.0  # of one attempt; 0: none
    receivers: tuple[Receiver, ...] = ()
    ttl_sec: float = 0.0  # how long the result is kept after the end; 0: for ever
    has_secrets: bool = False  # kept apart from the log, until the task has ended and everyone was told
    model: str = ""  # name of the model that the task starts from, for statistics
    idempotency_key: str = ""
    body_sha256: str = ""
    sent_before: bool = False  # the sender got no answer at first: an attempt may run of which this log knows nothing, since it is a new one


class CancelRequested(Event, frozen=True):
    task: str
    by: str = ""
    reason: str = ""


class RetryRequested(Event, frozen=True):
    task: str
    by: str = ""


class TaskPriorityChanged(Event, frozen=True):
    task: str
    priority: int
    by: str = ""


class WorkerDrainRequested(Event, frozen=True):
    """The worker takes no new work (`undo` lets it take work again)."""

    worker: str
    by: str = ""
    undo: bool = False


class WorkerElasticChanged(Event, frozen=True):
    """The worker is switched off (it gets no new work, what runs goes on) or on again, across its restarts."""

    worker: str
    enabled: bool
    by: str = ""
    reason: str = ""


# --- decisions of the scheduler --------------------------------------------------------------------------------------------------------


class TaskSharded(Event, frozen=True):
    """The task runs as `count` shards `<task>.s<i>`; shard i takes the i-th contiguous range of the items."""

    task: str
    count: int
    items: int = 0
    seed: int = 0
    revision: str = ""
    data_digest: str = ""


class TaskDispatched(Event, frozen=True):
    """Attempt `attempt` was sent to a worker's inbox; the inbox entry has this event's id.

    `joins`: its devices are in use, by the engine that it wants, and it is answered in that engine's batch.
    """

    task: str
    attempt: int
    worker: str
    incarnation: int
    devices: tuple[int, ...] = ()
    joins: bool = False


class AttemptRecalled(Event, frozen=True):
    """A dispatch was taken back before the worker started it."""

    task: str
    attempt: int
    worker: str
    incarnation: int


class AttemptStopRequested(Event, frozen=True):
    task: str
    attempt: int
    worker: str
    incarnation: int
    reason: str = ""
    grace_sec: float = 10.0


class AttemptLost(Event, frozen=True):
    """The attempt ended with its worker."""

    task: str
    attempt: int
    worker: str
    incarnation: int
    reason: str = ""


class TaskRequeued(Event, frozen=True):
    """The task waits for a worker again, for `reason`; not before `delay_ms` after this event."""

    task: str
    attempt: int  # the attempt that ended; 0 where a person asked
    reason: str
    delay_ms: int = 0


class TaskDeadLettered(Event, frozen=True):
    """Trying again is left to a person."""

    task: str
    attempt: int
    error: Error


class TaskTimedOut(Event, frozen=True):
    task: str
    attempt: int
    timeout_sec: float = 0.0


class TaskCancelled(Event, frozen=True):
    task: str
    reason: str = ""


class WorkerLost(Event, frozen=True):
    """No sign of life for the heartbeat's time to live: the incarnation is revoked and its inbox deleted."""

    worker: str
    incarnation: int
    silent_ms: int = 0


# --- reports of workers ----------------------------------------------------------------------------------------------------------------


class WorkerRegistered(Event, frozen=True):
    """A worker is there under a new incarnation, with what it can run and the attempts that it still holds."""

    worker: str
    incarnation: int
    run_id: str = ""  # of the server
    hardware: Hardware = Hardware()
    task_types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    slots: int = 1  # host tasks without a device at a time
    cost_per_hour: float = 0.0
    attempts: tuple[HeldAttempt, ...] = ()
    versions: dict[str, str] = {}  # of MLOC and the libraries that run its tasks
    lacks: dict[str, str] = {}  # task type that it does not offer, or part of one (eval/lm-eval) → why, and what would help
    heartbeat_interval_ms: int = 0  # how often it means to say that it is there; 0: nobody wrote that down yet


class WorkerRetired(Event, frozen=True):
    """The worker stopped in good order."""

    worker: str
    incarnation: int
    reason: str = ""


class EngineReady(Event, frozen=True):
    """An engine is loaded and warm on the worker. `load_sec` is 0 where it had been loaded before, under another key.

    `takes_several`: tasks at a time, in one batch.
    """

    worker: str
    incarnation: int
    engine: str
    seconds: float = 0.0
    devices: tuple[int, ...] = ()
    load_sec: float = 0.0
    takes_several: bool = False


class EngineSlept(Event, frozen=True):
    """An engine left its device or its host. `asleep`: its weights stay in main memory, from where it wakes sooner than it loads."""

    worker: str
    incarnation: int
    engine: str
    seconds: float = 0.0
    asleep: bool = False


class EngineWoke(Event, frozen=True):
    worker: str
    incarnation: int
    engine: str
    seconds: float = 0.0
    takes_several: bool = False


class AttemptReport(Event, frozen=True, kw_only=True):
    """What the reports of an attempt share. `seq` numbers the reports of one incarnation, so that a repeat is recognised."""

    task: str
    attempt: int
    worker: str
    incarnation: int
    seq: int = 0


class AttemptStarted(AttemptReport, frozen=True):
    """The worker took the dispatch and starts it. `inputs` are digests and revisions by name."""

    inputs: dict[str, str] = {}


class RowsCompleted(AttemptReport, frozen=True):
    """`rows` more rows are durable in `part`, a file of the task's rows folder."""

    part: str
    rows: int
    sha256: str = ""


class CheckpointSaved(AttemptReport, frozen=True):
    step: int
    path: str
    sha256: str = ""


class AttemptSucceeded(AttemptReport, frozen=True):
    """The result: inline up to 64 KiB, else the file `responses.json` in the attempt's folder, durable before this event.

    `files` says that the attempt's folder holds files that belong to the result (artifacts, large results).
    """

    result: Raw = ABSENT  # JSON; empty when it is in the folder
    sha256: str = ""  # of responses.json where it is in the folder
    size_bytes: int = 0
    files: bool = False
    duration_ms: float = 0.0
    usage: dict[str, Any] = {}


class AttemptFailed(AttemptReport, frozen=True):
    error: Error
    duration_ms: float = 0.0


class AttemptStopped(AttemptReport, frozen=True):
    """The attempt ended, or never began, because it was asked to stop."""

    reason: str = ""


# --- the API -----------------------------------------------------------------------------------------------------------------------------


class ArtifactStored(Event, frozen=True):
    """A file of the task was uploaded and is durable; it belongs under `artifacts/<name>` of the result.

    Attempt 0: to the result of whichever attempt is published; else to that of this attempt alone.
    """

    task: str
    name: str
    sha256: str
    size_bytes: int = 0
    attempt: int = 0
    by: str = ""  # worker, or who uploaded it


# --- the aggregator ---------------------------------------------------------------------------------------------------------------------


class ResultPublished(Event, frozen=True):
    """The task's result is final. For a merged or pipeline task it carries the result, inline or as a digest of the published file."""

    task: str
    attempt: int = 0
    result: Raw = ABSENT
    sha256: str = ""
    size_bytes: int = 0
    files: bool = False


class CallbackMade(Event, frozen=True):
    """A receiver took what a task's end had for it. `ended_ms` names the end: a dead letter may end again."""

    task: str
    what: str
    ended_ms: int
    status: int = 0


class CallbackFailed(Event, frozen=True):
    """A receiver could not be told; the next try comes after `again_ms`, none where that is 0."""

    task: str
    what: str
    ended_ms: int
    status: int = 0  # 0: there was no answer
    error: str = ""
    again_ms: int = 0


class ResultExpired(Event, frozen=True):
    """The time that the result was to be kept is over, and its files are removed. `due_ms` is when that time was over."""

    task: str
    due_ms: int


AnyEvent = (
    TaskSubmitted | TaskDispatched | AttemptStarted | AttemptSucceeded | ResultPublished
    | LogStarted | ServerRestarted | LeaderElected | FoldVersionActivated | PolicyChanged
    | CancelRequested | RetryRequested | TaskPriorityChanged | WorkerDrainRequested | WorkerElasticChanged
    | TaskSharded | AttemptRecalled | AttemptStopRequested | AttemptLost | TaskRequeued | TaskDeadLettered | TaskTimedOut
    | TaskCancelled | WorkerLost | WorkerRegistered | WorkerRetired | EngineReady | EngineSlept | EngineWoke
    | RowsCompleted | CheckpointSaved | AttemptFailed | AttemptStopped | ArtifactStored | CallbackMade | CallbackFailed
    | ResultExpired
)  # fmt: skip
