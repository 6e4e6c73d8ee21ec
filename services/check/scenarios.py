"""The small jobs of `mloc check`, and what their results must hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

Result = dict[str, Any]
Device = str  # "cpu" or "gpu"

TINY = {
    "type": "scratch", "architecture": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 320,
    "tokenizer_text": ["the quick brown fox jumps over the lazy dog"],
}  # fmt: skip
PAIRS = [{"prompt": f"What is {number}?", "response": f"{number} is a number."} for number in range(8)]
SHARDS, ROWS = 4, 16


class Scenario(Struct, frozen=True):
    """`spec` gives the task for a device; `wrong` says what a result lacks, "" where it is right.

    `way`: through the event log (`log`), through the API (`http`), or whichever there is (`any`).
    """

    name: str
    about: str
    spec: Callable[[Device], dict[str, Any]]
    wrong: Callable[[Result], str]
    way: str = "any"
    falls_back: bool = False  # where no GPU fits, on the CPU
    uploads: bool = False  # a file goes to the API and comes back


def task_of(scenario: Scenario, device: Device) -> dict[str, Any]:
    """The task as a document of the task language."""
    return {
        "apiVersion": "mloc/v1", "kind": "Check", "metadata": {"name": f"check-{scenario.name}", "labels": {"purpose": "check"}},
        "spec": {**scenario.spec(device), "retry": {"max_attempts": 2, "backoff_sec": 1}},
    }  # fmt: skip


def _echo(device: Device) -> dict[str, Any]:
    return {"taskType": "echo", "data": {"type": "list", "items": ["hello"]}}


def _sharded(device: Device) -> dict[str, Any]:
    return {
        "taskType": "echo", "parallel": {"enabled": True, "shards": SHARDS},
        "data": {"type": "list", "items": [f"row {number}" for number in range(ROWS)]},
    }  # fmt: skip


def _inference(device: Device) -> dict[str, Any]:
    items = ["What is a fox?", "What is a dog?"]
    return {
        "taskType": "inference", "model": {"source": TINY}, "data": {"type": "list", "items": items}, "inference": {"max_tokens": 8},
        **_on(device),
    }  # fmt: skip


def _training(device: Device) -> dict[str, Any]:
    settings = {"max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1, "save_strategy": "no"}
    return {
        "taskType": "sft", "model": {"source": TINY}, "data": {"type": "list", "items": PAIRS}, "training": settings,
        "output": {"artifacts": ["final_model"]}, **_on(device),
    }  # fmt: skip


def _on(device: Device) -> dict[str, Any]:
    return {"resources": {"hardware": {"gpu": {"count": 1}}}} if device == "gpu" else {"enforce_cpu": True}


def _echo_wrong(result: Result) -> str:
    return _outputs_wrong(result, ["hello"])


def _sharded_wrong(result: Result) -> str:
    return _outputs_wrong(result, [f"row {number}" for number in range(ROWS)])


def _outputs_wrong(result: Result, expected: list[str]) -> str:
    outputs = [item.get("output") for item in result.get("items", [])]
    return "" if outputs == expected else f"the outputs are {outputs!r}, not {expected!r}"


def _inference_wrong(result: Result) -> str:
    items = result.get("items", [])
    if len(items) != 2 or any("output" not in item for item in items):
        return f"there are not two answers but {items!r}"
    return "" if result.get("usage", {}).get("completion_tokens", 0) > 0 else "no token was generated"


def _training_wrong(result: Result) -> str:
    training = result.get("training", {})
    first, final = training.get("first_loss"), training.get("final_loss")
    if first is None or final is None or not final < first:
        return f"the loss did not fall: {first} → {final}"
    return "" if result.get("final_model_path") else "there is no final_model_path"


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("echo-local", "a task through the event log, and its result", _echo, _echo_wrong, way="log"),
        Scenario("echo-http", "a task through the HTTP API, and its result", _echo, _echo_wrong, way="http"),
        Scenario("sharded", f"{ROWS} rows over {SHARDS} shards, merged in order", _sharded, _sharded_wrong),
        Scenario("upload", "a file to the API, and the same bytes back", _echo, _echo_wrong, way="http", uploads=True),
        Scenario("inference", "a tiny model answers two prompts", _inference, _inference_wrong),
        Scenario("training", "a tiny model learns eight pairs", _training, _training_wrong),
        Scenario("training-fallback", "the same on a GPU, and on the CPU where no worker has one", _training, _training_wrong, falls_back=True),
    )
}
