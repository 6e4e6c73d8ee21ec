"""Trainings that fail, on a real cell: each ends as it should, the worker lives, and one that was killed goes on with the curve it had."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mloc.services.up.record import read_up_record
from tests.integration.whole_cell import WholeCell

pytestmark = [
    pytest.mark.deep, pytest.mark.models, pytest.mark.timeout(400), pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]  # fmt: skip

DEADLINE_SEC = 150
ENDED = ("published", "dead_lettered")
SCRATCH = {"source": {"type": "scratch", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}}
PAIRS = [{"prompt": f"What is {i}?", "response": f"{i} is a number.", "chosen": f"{i}, yes", "rejected": f"{i}, no"} for i in range(16)]
WILD = {"max_steps": 60, "learning_rate": 1e30, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}


@pytest.fixture(scope="module")
def cell() -> Iterator[WholeCell]:
    running = WholeCell(HF_HUB_OFFLINE="1")
    yield running
    running.close()


def submit(cell: WholeCell, name: str, task_type: str, **spec: Any) -> str:
    training = {"max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "seed": 3, **spec.pop("training", {})}
    body = {"taskType": task_type, "model": SCRATCH, "data": {"items": PAIRS}, "retry": {"backoff_sec": 0}, **spec, "training": training}
    document = {"apiVersion": "mloc/v1", "kind": "TrainingTask", "metadata": {"name": name}, "spec": body}
    return cell.submit(yaml.safe_dump(document), name, DEADLINE_SEC)[0]


def ended(cell: WholeCell, task: str) -> dict[str, Any]:
    def shown() -> dict[str, Any] | None:
        _, told = cell.http("GET", f"/api/v1/tasks/{task}")
        return told if told["state"] in ENDED else None

    found: dict[str, Any] = cell.until(shown, DEADLINE_SEC)
    return found


def workers(cell: WholeCell) -> set[int]:
    """The pid of the one worker."""
    record = read_up_record(cell.state)
    assert record is not None
    return {pid for name, pid in record.services.items() if name.startswith("worker")}


def hosts(cell: WholeCell) -> list[int]:
    """Pids of the hosts that are not for light tasks, of the one worker."""
    own, found = workers(cell), []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes()
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        if parent in own and b"mloc.executors.host" in command and b"--light" not in command:
            found.append(int(place.name))
    return found


def kill_host(cell: WholeCell, number: int) -> None:
    for pid in hosts(cell):
        os.kill(pid, number)


@contextlib.contextmanager
def short_of_memory(pid: int, mib: int) -> Iterator[None]:
    """The process gets no more than this besides what it has: the kernel refuses it the rest."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + (mib << 20), before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_AS, before)


def has_checkpoint(cell: WholeCell, task: str) -> bool:
    return any(task in str(path) for path in cell.results.rglob("checkpoint-*/trainer_state.json"))


def losses(cell: WholeCell, task: str) -> dict[int, float]:
    _, result = cell.http("GET", f"/api/v1/results/{task}")
    return {int(point["step"]): point["loss"] for point in result["training"]["history"] if "loss" in point}


@pytest.mark.parametrize(
    ("name", "spec", "said"),
    [
        ("no-model", {"model": {"source": {"type": "local", "identifier": "/no/such/model"}}}, "/no/such/model"),
        ("wrong-columns", {"task_type": "dpo", "data": {"items": [{"prompt": "a", "response": "b"}]}}, "needs chosen and rejected"),
        ("diverges", {"training": WILD}, "lower the learning_rate"),
    ],
)  # fmt: skip
def test_what_cannot_succeed_is_not_tried_again_and_the_next_task_runs(cell: WholeCell, name: str, spec: dict[str, Any], said: str) -> None:
    task = submit(cell, name, spec.pop("task_type", "sft"), **spec)
    shown = ended(cell, task)
    assert shown["state"] == "dead_lettered"
    assert shown["attempt"] == 1
    assert said in str(shown)
    assert ended(cell, submit(cell, f"{name}-next", "sft"))["state"] == "published"


def test_a_training_that_runs_out_of_memory_says_what_helps_and_its_host_runs_the_next_task(cell: WholeCell) -> None:
    # given a warm host that gets little more memory than it has
    assert ended(cell, submit(cell, "before", "sft"))["state"] == "published"
    (host,) = hosts(cell)
    with short_of_memory(host, 300):
        # when a training needs more for the activations of one layer
        wide = {"source": {**SCRATCH["source"], "hidden_size": 512, "intermediate_size": 4096, "max_position_embeddings": 2048}}
        long = [{"prompt": f"{i}", "response": "What is this? " * 800} for i in range(16)]
        greedy = {"per_device_train_batch_size": 16, "max_length": 2048}
        task = submit(cell, "greedy", "sft", model=wide, data={"items": long}, training=greedy, retry={"max_attempts": 2, "backoff_sec": 0})
        # then it is tried again as often as it may be, and says what to do
        shown = ended(cell, task)
        assert (shown["state"], shown["attempt"]) == ("dead_lettered", 2)
        assert shown["error"]["type"] == "OutOfMemory"
        assert "smaller batches" in shown["error"]["message"]
        # and the same host, with what was freed, trains again
        assert ended(cell, submit(cell, "after", "sft"))["state"] == "published"
        assert hosts(cell) == [host]


@pytest.fixture(scope="module")
def base(cell: WholeCell) -> dict[str, Any]:
    """A model that adapters and preferences start from."""
    task = submit(cell, "base", "sft", training={"max_steps": 20})
    assert ended(cell, task)["state"] == "published"
    _, result = cell.http("GET", f"/api/v1/results/{task}")
    return {"source": {"type": "local", "identifier": result["final_model_path"]}}


@pytest.mark.parametrize(("task_type", "number"), [("lora_sft", signal.SIGKILL), ("dpo", signal.SIGABRT)])
def test_a_training_whose_process_dies_goes_on_with_the_curve_of_one_that_did_not(
    cell: WholeCell, base: dict[str, Any], task_type: str, number: int
) -> None:
    learn = {"max_steps": 120, "save_strategy": "steps", "save_steps": 10, "lr_scheduler_type": "constant"}
    straight = submit(cell, f"{task_type}-straight", task_type, model=base, training=learn)
    assert ended(cell, straight)["state"] == "published"
    task = submit(cell, f"{task_type}-killed", task_type, model=base, training=learn)
    cell.until(lambda: has_checkpoint(cell, task), DEADLINE_SEC)
    kill_host(cell, number)
    shown = ended(cell, task)
    assert (shown["state"], shown["attempt"]) == ("published", 2)
    curve = losses(cell, task)
    assert len(curve) == 120
    assert curve == losses(cell, straight)
    events = cell.http("GET", f"/api/v1/tasks/{task}/events")[1]
    assert signal.Signals(number).name in str(events)


EACH = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}  # steps so long that what is seen of the first is not of the last
SAVING = {**EACH, "max_steps": 120, "save_strategy": "steps", "save_steps": 10, "save_total_limit": 4, "lr_scheduler_type": "constant"}


@pytest.fixture(scope="module")
def straight(cell: WholeCell) -> dict[int, float]:
    """The curve of a training that nothing happened to."""
    task = submit(cell, "straight", "sft", training=SAVING)
    assert ended(cell, task)["state"] == "published"
    return losses(cell, task)


def told_of(cell: WholeCell, task: str) -> list[int]:
    """Steps of the checkpoints that the log knows."""
    status, told = cell.http("GET", f"/api/v1/tasks/{task}/events?limit=500")
    return [event["step"] for event in told["events"] if event["type"] == "CheckpointSaved"] if status == 200 else []


def finished_checkpoints(cell: WholeCell, task: str) -> dict[int, Path]:
    """Those of the first attempt on disk, by their steps."""
    found = [sums.parent for sums in cell.results.glob(f".attempts/{task}/1/artifacts/checkpoints/checkpoint-*/SHA256SUMS")]
    return {int(folder.name.removeprefix("checkpoint-")): folder for folder in found}


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def garble(file: Path) -> None:
    """Other bytes at the end: its length and its head are as they were."""
    content = file.read_bytes()
    file.write_bytes(content[:-64] + bytes(byte ^ 0xFF for byte in content[-64:]))


@pytest.mark.parametrize(
    ("name", "damage", "file", "is_every_one"),
    [("garbled", garble, "model.safetensors", False), ("all-cut-off", cut_off, "optimizer.pt", True)],
)  # fmt: skip
def test_a_damaged_checkpoint_gives_way_to_what_is_whole_and_the_curve_is_the_same(
    cell: WholeCell, straight: dict[int, float], name: str, damage: Callable[[Path], None], file: str, is_every_one: bool
) -> None:
    # given a training with several checkpoints, whose host is held
    before = workers(cell)
    task = submit(cell, name, "sft", training=SAVING)
    cell.until(lambda: len(told_of(cell, task)) >= 2, DEADLINE_SEC)
    kill_host(cell, signal.SIGSTOP)
    # when those that the next attempt is told of, or all, are damaged on disk, and the host is killed
    newest, there = max(told_of(cell, task)), finished_checkpoints(cell, task)
    whole = 0 if is_every_one else max(step for step in there if step < newest)
    for step, checkpoint in there.items():
        if step > whole:
            damage(checkpoint / file)
    kill_host(cell, signal.SIGKILL)
    # then the next attempt says what is wrong, and goes on from the one before, or from the beginning
    shown = ended(cell, task)
    assert (shown["state"], shown["attempt"]) == ("published", 2)
    said = [line.get("line", "") for line in cell.http("GET", f"/api/v1/tasks/{task}/logs?limit=5000")[1]["lines"]]
    assert any(f"cannot be gone on from: {file} is damaged" in line for line in said)
    assert [int(line.split()[3]) for line in said if line.startswith("training from step")] == [0, whole]
    assert ("training from the beginning: there is no checkpoint that is whole" in said) == is_every_one
    assert losses(cell, task) == straight
    # and the same worker goes on with the next task
    assert workers(cell) == before
    assert ended(cell, submit(cell, f"{name}-next", "sft"))["state"] == "published"
