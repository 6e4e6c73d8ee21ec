"""A log in a list with the state that it folds to, for tests that read as given / when / then."""

from __future__ import annotations

from mloc.core import codec
from mloc.core.cluster import Cluster
from mloc.core.decisions import aggregation, scheduling
from mloc.core.decisions.scheduling import Limits
from mloc.core.events import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    Device,
    Error,
    Event,
    Hardware,
    LogStarted,
    Need,
    TaskDispatched,
    TaskSubmitted,
    WorkerRegistered,
    raw,
)
from mloc.core.fold import evolve
from mloc.core.task import Task

ECHO = Need("echo", light=True)
TRAIN = Need("sft")
GPU = Need("inference", gpus=1)
GIB = 2**30


class History:
    """Appends events at a virtual time, through the codec like a real log, and folds each."""

    def __init__(self, now_ms: int = 1_000_000) -> None:
        self.cluster = Cluster()
        self.now_ms = now_ms
        self.entries: list[tuple[str, Event]] = []
        self.seen_ms: dict[str, int] = {}
        self.limits = Limits(heartbeat_ttl_ms=10_000)
        self.add(LogStarted(log_id="log", run_id="run"))

    def add(self, *events: Event) -> str:
        for event in events:
            id = f"{self.now_ms}-{len(self.entries)}"
            copy = codec.decode(codec.type_of(event), codec.encode(event))
            assert isinstance(copy, Event)
            self.entries.append((id, copy))
            evolve(self.cluster, id, copy)
        return self.cluster.position

    def decide(self) -> list[Event]:
        return scheduling.decide(self.cluster, self.now_ms, self.seen_ms, self.limits)

    def settle(self, rounds: int = 50) -> list[Event]:
        """Decide and fold in turn until nothing is missing; gives all answers, scheduler's and aggregator's."""
        answers: list[Event] = []
        for _ in range(rounds):
            events = self.decide() + aggregation.decide(self.cluster, {})[0]
            if not events:
                return answers
            self.add(*events)
            answers += events
        raise AssertionError(f"deciding does not come to rest: {answers[-6:]}")

    def task(self, id: str) -> Task:
        return self.cluster.tasks[id]

    def worker(
        self, id: str = "w", incarnation: int = 1, *, devices: int = 0, slots: int = 1, attempts: tuple = (), run_id: str = "run", cpus: float = 8.0,
        beats_ms: int = 0,
    ) -> None:
        hardware = Hardware(cpus=cpus, memory=64 * GIB, devices=tuple(Device(i, "NVIDIA H200", 80 * GIB) for i in range(devices)))
        self.add(
            WorkerRegistered(
                worker=id, incarnation=incarnation, run_id=run_id, hardware=hardware, slots=slots, attempts=attempts,
                task_types=("echo", "sft", "inference"), heartbeat_interval_ms=beats_ms,
            )
        )  # fmt: skip

    def submit(self, id: str, need: Need | None = ECHO, **fields: object) -> None:
        task_type, spec = (need.task_type, b"{}") if need else ("", b"")
        self.add(TaskSubmitted(task=id, task_type=task_type, need=need, spec=raw(spec), **fields))  # type: ignore[arg-type]

    def start(self, dispatch: TaskDispatched) -> None:
        self.add(AttemptStarted(task=dispatch.task, attempt=dispatch.attempt, worker=dispatch.worker, incarnation=dispatch.incarnation))

    def succeed(self, dispatch: TaskDispatched, result: bytes = b'{"ok":true}', files: bool = False) -> str:
        return self.add(
            AttemptSucceeded(
                task=dispatch.task, attempt=dispatch.attempt, worker=dispatch.worker, incarnation=dispatch.incarnation,
                result=raw(result), files=files,
            )
        )

    def fail(self, dispatch: TaskDispatched, error: Error = Error("Boom", "it broke")) -> None:  # noqa: B008
        self.add(
            AttemptFailed(task=dispatch.task, attempt=dispatch.attempt, worker=dispatch.worker, incarnation=dispatch.incarnation, error=error)
        )


def only(answers: list[Event], kind: type[Event]) -> list:
    return [event for event in answers if isinstance(event, kind)]


def dispatch_of(answers: list[Event], task: str) -> TaskDispatched:
    (found,) = [event for event in only(answers, TaskDispatched) if event.task == task]
    return found
