"""Training a tiny model with TRL, through a real host."""

from pathlib import Path
from typing import Any

import pytest
from driven_host import DrivenHost, task
from pipeline_run import published_result

from mloc.core.host_frames import CheckpointDone, Failed, RunTask, Stopped, Telemetry

pytestmark = pytest.mark.models

SCRATCH = {"type": "scratch", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
PAIRS = [{"prompt": f"What is {i}?", "response": f"{i} is a number."} for i in range(16)]


def training(name: str, folder: Path, task_type: str = "sft", **given: Any) -> RunTask:
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 1e-2, **given.pop("training", {})}
    spec = {"model": {"source": SCRATCH}, "data": {"type": "list", "items": PAIRS}, **given}
    return task(name, task_type, folder, training=settings, **spec)


def failure(host: DrivenHost, asked: RunTask) -> Failed:
    host.send(asked)
    return host.wait_of(Failed, asked.task)


def weights_of(folder: Path, name: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / name / "artifacts" / "final_model" / "model.safetensors")


def test_a_model_is_trained_from_nothing_and_its_curve_told(warm_host: DrivenHost, tmp_path: Path) -> None:
    warm_host.send(training("scratch", tmp_path))
    result = published_result(warm_host, "scratch", tmp_path)
    assert result["training"]["steps"] == 4
    assert result["training"]["final_loss"] < result["training"]["first_loss"]
    assert [point["step"] for point in result["training"]["history"] if "loss" in point] == [1, 2, 3, 4]
    assert result["final_model_path"] == str(tmp_path / "scratch" / "artifacts" / "final_model")
    assert (Path(result["final_model_path"]) / "config.json").is_file()
    assert not (tmp_path / "scratch" / "artifacts" / "checkpoints").exists()
    assert result["usage"]["total_tokens"] > 0
    assert result["training"]["memory_peak_bytes"] > 1 << 20
    losses = [frame.metrics["loss"] for frame in warm_host.frames if isinstance(frame, Telemetry) and "loss" in frame.metrics]
    assert len(losses) == 4
    saved = [frame for frame in warm_host.frames if isinstance(frame, CheckpointDone) and frame.task == "scratch"]
    assert [frame.step for frame in saved] == [4]


def stage_of(name: str, result: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {name: {"task_id": name, "folder": str(folder / name), "result": result}}


def test_an_adapter_is_trained_on_a_stage_and_serves_in_every_way_alike(warm_host: DrivenHost, tmp_path: Path) -> None:
    warm_host.send(training("base", tmp_path))
    base = stage_of("base", published_result(warm_host, "base", tmp_path), tmp_path)
    source = {"source": {"type": "stage", "identifier": "base"}}
    learn = {"max_steps": 30, "learning_rate": 5e-2}
    warm_host.send(training("adapter", tmp_path, "lora_sft", model={**source, "adapter": {"r": 4}}, run_inputs=base, training=learn))
    result = published_result(warm_host, "adapter", tmp_path)
    assert result["final_lora_path"] == str(tmp_path / "adapter" / "artifacts" / "final_lora")

    def answers(name: str, model: dict[str, Any], inputs: dict[str, Any]) -> list[str]:
        asked = {"data": {"type": "list", "items": ["What is 3?", "What is 12?"]}, "inference": {"max_tokens": 8, "temperature": 0}}
        warm_host.send(task(name, "inference", tmp_path, model=model, run_inputs=inputs, **asked))
        return [item["output"] for item in published_result(warm_host, name, tmp_path)["items"]]

    tuned = answers("by-stage", {"source": {"type": "stage", "identifier": "adapter"}}, stage_of("adapter", result, tmp_path))
    adapters = [{"name": "a", "path": result["final_lora_path"]}]
    assert tuned != answers("base-alone", source, base)
    assert tuned == answers("at-runtime", {**source, "adapters": adapters}, base)
    assert tuned == answers("merged", {**source, "adapters": [{**adapters[0], "apply": "merge"}]}, base)


@pytest.mark.deep
def test_an_adapter_is_trained_further_or_merged_into_all_weights(warm_host: DrivenHost, tmp_path: Path) -> None:
    warm_host.send(training("root", tmp_path))
    root = stage_of("root", published_result(warm_host, "root", tmp_path), tmp_path)
    warm_host.send(training("first", tmp_path, "lora_sft", model={"source": {"type": "stage", "identifier": "root"}}, run_inputs=root))
    first = stage_of("first", published_result(warm_host, "first", tmp_path), tmp_path)
    source = {"source": {"type": "stage", "identifier": "first"}}
    warm_host.send(training("further", tmp_path, "lora_sft", model=source, run_inputs=first))
    assert "final_lora_path" in published_result(warm_host, "further", tmp_path)
    warm_host.send(training("whole", tmp_path, "sft", model=source, run_inputs=first))
    assert "final_model_path" in published_result(warm_host, "whole", tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"training": {"learning_rat": 1}}, "training.learning_rat is no setting of SFTConfig; did you mean learning_rate?"),
        ({"training": {"lr_scheduler_type": "wavy"}}, "wavy"),
        ({"task_type": "lora_sft"}, "train it with sft first"),
        ({"model": {"source": {**SCRATCH, "architecture": "lama"}}}, "did you mean llama?"),
        ({"model": {"source": {**SCRATCH, "vocab_size": 100}}}, "too small"),
        ({"data": {"type": "list", "items": []}}, "no rows"),
        ({"data": {"type": "list", "items": ["text", {"prompt": "a", "response": "b"}]}}, "not alike"),
        ({"data": {"type": "jsonl", "path": "/no/such/file.jsonl"}}, "/no/such/file.jsonl is not on the worker's disk"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_reason(warm_host: DrivenHost, tmp_path: Path, given: dict[str, Any], said: str) -> None:
    error = failure(warm_host, training(f"bad-{said}", tmp_path, **given)).error
    assert said in error.message
    assert not error.retryable


def test_a_bad_line_of_the_data_is_named_with_its_file(warm_host: DrivenHost, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": \n')
    error = failure(warm_host, training("bad-line", tmp_path, data={"type": "jsonl", "path": str(tmp_path / "rows.jsonl")})).error
    assert f"{tmp_path / 'rows.jsonl'}, line 2" in error.message


@pytest.mark.deep
def test_a_training_stopped_midway_and_resumed_equals_a_straight_one(warm_host: DrivenHost, tmp_path: Path) -> None:
    def of(steps: int) -> dict[str, Any]:
        return {"training": {"max_steps": steps, "lr_scheduler_type": "constant", "seed": 3}}

    warm_host.send(training("stopped", tmp_path, **of(1_000_000)))  # no machine is done with them before the stop
    warm_host.wait_for(lambda frame: isinstance(frame, Telemetry) and frame.task == "stopped" and frame.step >= 20)
    warm_host.stop("stopped")
    warm_host.wait_of(Stopped, "stopped")
    checkpoint = [frame for frame in warm_host.frames if isinstance(frame, CheckpointDone) and frame.task == "stopped"][-1]
    assert checkpoint.step >= 20
    all_steps = checkpoint.step + 30
    warm_host.send(training("stopped", tmp_path, attempt=2, run_checkpoint=checkpoint.path, **of(all_steps)))
    resumed = published_result(warm_host, "stopped", tmp_path, attempt=2)
    assert resumed["training"]["steps"] == all_steps
    warm_host.send(training("straight", tmp_path, **of(all_steps)))
    published_result(warm_host, "straight", tmp_path)
    straight, again = weights_of(tmp_path, "straight"), weights_of(tmp_path, "stopped")
    assert all(bool((straight[name] == again[name]).all()) for name in straight)


@pytest.mark.deep
def test_a_checkpoint_of_the_last_step_is_not_trained_on(warm_host: DrivenHost, tmp_path: Path) -> None:
    settings = {"training": {"keep_checkpoints": True, "save_strategy": "steps", "save_steps": 4}}
    warm_host.send(training("ended", tmp_path, **settings))
    published_result(warm_host, "ended", tmp_path)
    checkpoint = tmp_path / "ended" / "artifacts" / "checkpoints" / "checkpoint-4"
    warm_host.send(training("again", tmp_path, run_checkpoint=str(checkpoint), **settings))
    assert published_result(warm_host, "again", tmp_path)["training"]["steps"] == 4
    straight, again = weights_of(tmp_path, "ended"), weights_of(tmp_path, "again")
    assert all(bool((straight[name] == again[name]).all()) for name in straight)
