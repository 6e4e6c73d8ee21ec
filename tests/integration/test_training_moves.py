"""A training whose worker leaves in the middle, asked to or killed: another worker goes on from its checkpoint, with the curve of one that stayed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.integration.far_workers import FarWorkers
from tests.integration.whole_cell import WholeCell

pytestmark = [pytest.mark.deep, pytest.mark.models, pytest.mark.timeout(400)]

DEADLINE_SEC = 150
STEPS = 160
SCRATCH = {"source": {"type": "scratch", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}}
PAIRS = [{"prompt": f"What is {i}?", "response": f"{i} is a number."} for i in range(16)]


@pytest.fixture(scope="module")
def workers() -> Iterator[FarWorkers]:
    cell = WholeCell(workers=0, HEARTBEAT_INTERVAL_SEC="0.3", HEARTBEAT_TTL_SEC="5")
    started = FarWorkers(cell)
    try:
        yield started
    finally:
        started.close()
        cell.close()


def start(workers: FarWorkers, name: str) -> None:
    """With no time for what runs to end by itself when it is asked to leave."""
    workers.start(name, HEARTBEAT_TTL_SEC="5", WORKER_DRAIN_SEC="0", STOP_GRACE_SEC="30")


def submit(workers: FarWorkers, name: str, **training: Any) -> str:
    each = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}  # steps so long that what is seen of the first is not of the last
    learn = {"max_steps": STEPS, **each, "logging_steps": 1, "lr_scheduler_type": "constant", "seed": 3, **training}
    spec = {"taskType": "sft", "model": SCRATCH, "data": {"items": PAIRS}, "retry": {"backoff_sec": 0}, "training": learn}
    (id,) = workers.submit(yaml.safe_dump({"apiVersion": "mloc/v1", "kind": "SFTTask", "metadata": {"name": name}, "spec": spec}), name)
    return id


def lines(workers: FarWorkers, id: str) -> list[str]:
    status, told = workers.cell.http("GET", f"/api/v1/tasks/{id}/logs?limit=5000")
    return [line.get("line", "") for line in told["lines"]] if status == 200 else []


def losses(workers: FarWorkers, id: str) -> dict[int, float]:
    _, result = workers.cell.http("GET", f"/api/v1/results/{id}")
    return {int(point["step"]): point["loss"] for point in result["training"]["history"] if "loss" in point}


@pytest.fixture(scope="module")
def straight(workers: FarWorkers) -> dict[int, float]:
    """The curve of a training that nothing happened to."""
    start(workers, "one")
    id = submit(workers, "straight", save_strategy="no")
    assert workers.until_ended(id, DEADLINE_SEC)["state"] == "published"
    curve = losses(workers, id)
    assert len(curve) == STEPS
    return curve


def went_on(workers: FarWorkers, id: str, on: str) -> None:
    """The task was published by its second attempt, on that worker, which began at the step of the last checkpoint."""
    assert workers.until_ended(id, DEADLINE_SEC)["state"] == "published"
    attempts = [(event["attempt"], event["worker"]) for event in workers.events(id, "AttemptStarted")]
    assert (len(attempts), attempts[-1]) == (2, (2, on))
    begun = [int(line.split()[3]) for line in lines(workers, id) if line.startswith("training from step")]
    saved = [event["step"] for event in workers.events(id, "CheckpointSaved") if event["attempt"] == 1]
    assert begun == [0, saved[-1]]
    assert 0 < saved[-1] < STEPS


def test_a_worker_that_is_asked_to_leave_writes_a_checkpoint_and_another_goes_on(workers: FarWorkers, straight: dict[int, float]) -> None:
    # given a training that writes no checkpoint of its own accord
    id = submit(workers, "drained", save_strategy="no")
    workers.cell.until(lambda: any(line.startswith("step 3/") for line in lines(workers, id)), DEADLINE_SEC)
    # when its worker is asked to leave
    workers.terminate("one")
    start(workers, "two")
    # then the other one goes on where it was stopped
    went_on(workers, id, "two")
    assert [event["reason"] for event in workers.events(id, "AttemptStopped")] == ["drain"]
    assert losses(workers, id) == straight


def test_a_worker_that_is_killed_leaves_its_last_checkpoint_to_another(workers: FarWorkers, straight: dict[int, float]) -> None:
    id = submit(workers, "killed", save_strategy="steps", save_steps=20)
    workers.cell.until(lambda: workers.events(id, "CheckpointSaved"), DEADLINE_SEC)
    (first,) = [event["worker"] for event in workers.events(id, "AttemptStarted")]
    other = {"one": "two", "two": "one"}[first]
    workers.kill(first)
    start(workers, other)
    went_on(workers, id, other)
    assert losses(workers, id) == straight
