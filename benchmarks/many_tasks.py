"""A long history of finished tasks, as the services would have written it: many owners, projects, labels, types, workers, ends."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from msgspec import Raw

from mloc.core import codec
from mloc.core.events import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    CancelRequested,
    Device,
    Error,
    Event,
    Hardware,
    LogStarted,
    Need,
    ResultPublished,
    TaskCancelled,
    TaskDeadLettered,
    TaskDispatched,
    TaskSubmitted,
    WorkerRegistered,
)
from mloc.services.log.event_log import Entry

START_MS = 1_780_272_000_000  # 2026-06-01
KINDS = (("InferenceTask", "inference"), ("EchoTask", "echo"), ("LoRASFTTask", "lora_sft"), ("RetrievalTask", "rag"), ("Task", "embed"))
WORKERS = 40
_SPEC = b'{"taskType":"inference","model":{"source":{"identifier":"org/model"}},"data":{"prompts":["%s"]},"inference":{"max_tokens":64}}'


def entries(tasks: int, seed: int = 1, *, per_second: int = 3) -> Iterator[Entry]:
    """Entries in log order; each task goes its way from submission to its end in a few entries, 50 tasks open at a time."""
    chance = random.Random(seed)
    now_ms, sequence = START_MS, 0

    def entry(event: Event) -> Entry:
        nonlocal sequence
        sequence += 1
        return Entry(f"{now_ms}-{sequence}", codec.type_of(event), codec.encode(event))

    yield entry(LogStarted(log_id="log-of-a-benchmark", run_id="run-1"))
    for number in range(WORKERS):
        hardware = Hardware(f"host{number}", 16, 2**36, tuple(Device(i, "NVIDIA H200", 141 * 2**30) for i in range(2)))
        types = tuple(task_type for _, task_type in KINDS)
        yield entry(
            WorkerRegistered(worker=f"w{number}", incarnation=1, run_id="run-1", hardware=hardware, task_types=types, slots=64, cost_per_hour=2.5)
        )
    for first in range(0, tasks, 50):
        lives = [list(_life(number, chance)) for number in range(first, min(first + 50, tasks))]
        for step in range(max(map(len, lives))):
            now_ms += 50 * 1000 // per_second // 6
            sequence = 0
            for life in lives:
                if step < len(life):
                    yield entry(life[step])


def _life(number: int, chance: random.Random) -> Iterator[Event]:
    kind, task_type = chance.choices(KINDS, (50, 25, 10, 10, 5))[0]
    owner = f"user{int(chance.paretovariate(1.0)) % 500}"
    name = f"{task_type}-{chance.choice('abcdefghij')}-{number % 3000}"
    task = f"{name}-{number:08x}{chance.getrandbits(32):08x}"
    spec = _SPEC % name.encode()
    labels = {"team": f"t{chance.randrange(20)}", "run": str(number // 100)} if number % 2 else {}
    priority = chance.choices((50, 80, 10, chance.randrange(101)), (80, 10, 5, 5))[0]
    yield TaskSubmitted(
        task=task, name=name, kind=kind, task_type=task_type, spec=Raw(spec), spec_digest=hashlib.sha256(spec).hexdigest(),
        need=Need(task_type, light=task_type == "echo"), owner=owner, project=f"p{chance.randrange(50)}", labels=labels, priority=priority,
    )  # fmt: skip
    end = chance.choices(("done", "cancelled", "dead"), (97, 2, 1))[0]
    if end == "cancelled":
        yield CancelRequested(task=task, by=owner)
        yield TaskCancelled(task=task, reason=f"cancelled by {owner}")
        return
    worker = f"w{chance.randrange(WORKERS)}"
    yield TaskDispatched(task=task, attempt=1, worker=worker, incarnation=1)
    yield AttemptStarted(task=task, attempt=1, worker=worker, incarnation=1)
    took = chance.lognormvariate(6, 1)
    if end == "dead":
        error = Error("BadModel", "there is no such model", retryable=False)
        yield AttemptFailed(task=task, attempt=1, worker=worker, incarnation=1, error=error, duration_ms=took)
        yield TaskDeadLettered(task=task, attempt=1, error=error)
        return
    usage = {"prompt_tokens": 200, "completion_tokens": 64, "total_tokens": 264, "latency_sec": took / 1000, "num_requests": 1}
    result = Raw(b'{"ok":true,"model":"org/model","items":[{"index":0,"prompt":"a","output":"b"}]}')
    yield AttemptSucceeded(task=task, attempt=1, worker=worker, incarnation=1, result=result, duration_ms=took, usage=usage)
    yield ResultPublished(task=task, attempt=1)
