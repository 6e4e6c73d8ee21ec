"""Histories with a bit of everything, from a seed: families, shards, failures, retries, cancellations, lost workers, changed priorities."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
from msgspec import Raw

from mloc.core.events import (
    CancelRequested,
    Error,
    Need,
    Parallel,
    RetryRequested,
    TaskPriorityChanged,
    TaskSubmitted,
    WorkerLost,
)  # fmt: skip
from tests.histories import History

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # hundreds of small files, each synced, are slow on a busy disk
OWNERS = ("ada", "bo", "")
PROJECTS = ("x", "y", "")
KINDS = (("EchoTask", "echo"), ("SFTTask", "sft"), ("Echo", "inference"))
NAMES = ("alpha", "beta", "Ünï", "")
LABELS = ({}, {"team": "a"}, {"team": "b", "run": "1"})


def random_history(seed: int, steps: int = 25) -> History:
    chance = random.Random(seed)
    broken = Error("Boom", "it broke", retryable=False)
    history = History(outcome=lambda task, attempt: chance.choice((None, broken, {"ok": True}, {"ok": True}, {"ok": True})))
    incarnations = {"w1": 1, "w2": 1}
    for worker in incarnations:
        history.worker(worker)
    for number in range(steps):
        match chance.randrange(9):
            case 0 | 1 | 2:
                _submit(history, chance, f"t{number}")
            case 3:
                history.pipeline(f"p{number}", {"a": "echo", "b": "sft"})
            case 4 if tasks := list(history.cluster.tasks):
                history.add(CancelRequested(task=chance.choice(tasks), by="ada"))
            case 5 if tasks := list(history.cluster.tasks):
                history.add(TaskPriorityChanged(task=chance.choice(tasks), priority=chance.choice((10, 90))))
            case 6 if dead := list(history.cluster.phase("dead_lettered")):
                history.add(RetryRequested(task=chance.choice(dead), by="ada"))
            case 7 if chance.random() < 0.3:
                worker = chance.choice(list(incarnations))
                history.add(WorkerLost(worker=worker, incarnation=incarnations[worker]))
                incarnations[worker] += 1
                history.worker(worker, incarnation=incarnations[worker])
            case _:
                for _ in range(chance.randrange(1, 4)):
                    while history.decide():
                        pass
                    history.work(chance.randrange(1, 6))
    return history


def _submit(history: History, chance: random.Random, id: str) -> None:
    kind, task_type = chance.choice(KINDS)
    more = {"parallel": Parallel(shards=3), "items": 9} if chance.random() < 0.2 else {}
    slo = {"slo": {"deadline_sec": chance.choice((0.5, 3600))}} if chance.random() < 0.5 else {}
    history.add(
        TaskSubmitted(
            task=id, name=chance.choice(NAMES), kind=kind, task_type=task_type, spec=Raw(msgspec.json.encode({"taskType": task_type, **slo})),
            need=Need(task_type), owner=chance.choice(OWNERS), project=chance.choice(PROJECTS), labels=chance.choice(LABELS),
            priority=chance.choice((10, 50, 90)), max_attempts=chance.choice((1, 3)), backoff_sec=1.0, **more,
        )
    )  # fmt: skip
