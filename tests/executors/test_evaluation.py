"""Rows that are held out, early stopping, the best weights, and what a training leaves behind beside its weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from driven_host import DrivenHost, task
from pipeline_run import published_result
from safetensors.torch import load_file

from mloc.core.host_frames import CheckpointDone, Failed, Telemetry
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.rows.rows import Row
from mloc.executors.training.evaluation import evaluation_of, held_out
from mloc.executors.training.saved_checkpoints import usable_checkpoint

SCRATCH = {"type": "scratch", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
PAIRS = [{"prompt": f"What is {i}?", "response": f"{i} is a number."} for i in range(40)]
NOWHERE = Path("/nonexistent")
CONTEXT = Context(
    folder=NOWHERE, final_folder=NOWHERE, rows_folder=NOWHERE, inputs={}, devices=(), shard=None, checkpoint=None, seed=0,
    stopping=lambda: False, report=lambda said: None,
)  # fmt: skip


def split(count: int, part: Any, seed: int = 0) -> tuple[list[int], list[int]]:
    learned, kept = held_out([Row(at) for at in range(count)], evaluation_of({"eval_split": part}, "eval_loss").split, seed, TaskSpec("sft"), CONTEXT)
    return [row.index for row in learned], [row.index for row in kept]


@pytest.mark.parametrize(("part", "count"), [(0.1, 4), (0.001, 1), (5, 5), (5.0, 5)])
def test_a_share_or_a_number_of_rows_is_held_out_the_same_each_time(part: float, count: int) -> None:
    learned, kept = split(40, part)
    assert len(kept) == count
    assert sorted(learned + kept) == list(range(40))
    assert split(40, part) == (learned, kept)
    assert split(40, 0.5, seed=1) != split(40, 0.5, seed=2)


@pytest.mark.parametrize(
    ("part", "said"),
    [*((wrong, "must be a share") for wrong in (0, -1, True, 1.5)), (40, "nothing to learn from"), ("test", "only data of type dataset")],
)
def test_a_split_that_cannot_be_made_is_refused(part: Any, said: str) -> None:
    with pytest.raises(ExecutorError, match=said):
        split(40, part)


def test_nothing_is_held_out_unless_it_is_asked_for() -> None:
    assert evaluation_of({"max_steps": 5, "early_stopping": False}, "eval_loss").split is None
    assert evaluation_of({"early_stopping": False, "early_stopping_patience": 3}, "eval_loss").split is None
    assert evaluation_of({"eval_strategy": "epoch"}, "eval_loss").split == 0.1


def test_early_stopping_saves_when_it_evaluates_and_keeps_the_best() -> None:
    asked = evaluation_of({"early_stopping": {"patience": 4, "threshold": 0.5}, "eval_steps": 7}, "eval_reward")
    assert (asked.patience, asked.threshold, asked.split) == (4, 0.5, 0.1)
    assert asked.settings == {
        "eval_strategy": "steps", "eval_steps": 7, "save_strategy": "steps", "save_steps": 7, "load_best_model_at_end": True,
        "metric_for_best_model": "eval_reward", "greater_is_better": True,
    }  # fmt: skip


def train(host: DrivenHost, name: str, folder: Path, task_type: str = "sft", **given: Any) -> dict[str, Any]:
    settings = {"max_steps": 6, "per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 1e-2, **given.pop("training", {})}
    spec = {"model": {"source": SCRATCH}, "data": {"type": "list", "items": PAIRS}, **given}
    host.send(task(name, task_type, folder, training=settings, **spec))
    return published_result(host, name, folder)


@pytest.mark.models
def test_a_training_tells_how_it_goes_on_rows_that_it_does_not_learn_from(warm_host: DrivenHost, tmp_path: Path) -> None:
    result = train(warm_host, "evaluated", tmp_path, training={"eval_split": 0.2, "eval_strategy": "steps", "eval_steps": 2})
    told = [frame.metrics["eval_loss"] for frame in warm_host.frames if isinstance(frame, Telemetry) and "eval_loss" in frame.metrics]
    assert len(told) == 3
    assert result["training"]["final_eval_loss"] == pytest.approx(told[-1], abs=1e-3)
    assert [point["step"] for point in result["training"]["history"] if "eval_loss" in point] == [2, 4, 6]
    card = (Path(result["final_model_path"]) / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "transformers"
    assert "32 rows to learn from (list, written in the task); 8 others only to evaluate on." in card
    for part in ("| learning_rate | 0.01 |", "| final_loss |", "| step | loss | eval_loss |", "| transformers |", "Supervised fine-tuning"):
        assert part in card


@pytest.mark.models
@pytest.mark.parametrize(("every", "told_at"), [(10, [3]), (2, [2, 3])])
def test_a_curve_has_its_end_whatever_the_steps_between_its_points(
    warm_host: DrivenHost, tmp_path: Path, every: int, told_at: list[int]
) -> None:
    told = train(warm_host, f"short-{every}", tmp_path, training={"max_steps": 3, "logging_steps": every})["training"]
    curve = {point["step"]: point["loss"] for point in told["history"] if "loss" in point}
    assert list(curve) == told_at
    assert told["final_loss"] == pytest.approx(curve[3], abs=1e-3)


@pytest.mark.models
def test_a_value_that_only_the_trainer_knows_to_be_wrong_is_not_tried_again(warm_host: DrivenHost, tmp_path: Path) -> None:
    pairs = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 4
    data = {"type": "preferences", "preferences": pairs}
    warm_host.send(task("lossy", "dpo", tmp_path, model={"source": SCRATCH}, data=data, training={"loss_type": "no_loss"}))
    error = warm_host.wait_of(Failed, "lossy").error
    assert (error.type, error.retryable) == ("BadSetting", False)
    assert "no_loss" in error.message


@pytest.mark.models
def test_a_training_that_gets_no_better_stops_early_with_its_best_weights(warm_host: DrivenHost, tmp_path: Path) -> None:
    learn = {"max_steps": 60, "early_stopping": True, "early_stopping_patience": 2, "eval_steps": 1, "eval_split": 8, "learning_rate": 0.3}
    told = train(warm_host, "early", tmp_path, training=learn)["training"]
    curve = {point["step"]: point["eval_loss"] for point in told["history"] if "eval_loss" in point}
    assert told["stopped_early"]
    assert told["steps"] < 60
    assert told["best_step"] == min(curve, key=lambda step: curve[step])
    assert told["best_step"] <= told["steps"] - 2
    again = train(
        warm_host, "again", tmp_path, model={"source": {"type": "local", "identifier": str(tmp_path / "early/artifacts/final_model")}},
        training={"max_steps": 1, "eval_split": 8, "eval_strategy": "steps", "eval_on_start": True, "learning_rate": 0.0},
    )  # fmt: skip
    at_start = next(point["eval_loss"] for point in again["training"]["history"] if "eval_loss" in point)
    assert at_start == pytest.approx(told["best_metric"], rel=1e-3)


WORSE = {"max_steps": 6, "load_best_model_at_end": True, "eval_steps": 1, "eval_split": 8, "learning_rate": 1.0, "lr_scheduler_type": "constant"}


def moved_checkpoint(host: DrivenHost, name: str, folder: Path, step: int) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Of a training that gets worse from its second step on: what it told, its best weights, and all that is left of it: one checkpoint."""
    told = train(host, name, folder, training={**WORSE, "keep_checkpoints": True, "save_total_limit": 9})["training"]
    assert told["best_step"] < 4
    checkpoints = folder / name / "artifacts" / "checkpoints"
    best = load_file(checkpoints / f"checkpoint-{told['best_step']}" / "model.safetensors")
    there = folder / "elsewhere" / f"checkpoint-{step}"
    shutil.copytree(checkpoints / there.name, there)
    shutil.rmtree(folder / name)
    return told, best, there


@pytest.mark.models
@pytest.mark.parametrize("step", [4, 6])
def test_one_checkpoint_elsewhere_is_enough_to_end_with_the_best_weights(warm_host: DrivenHost, tmp_path: Path, step: int) -> None:
    told, best, there = moved_checkpoint(warm_host, f"here-{step}", tmp_path, step)
    result = train(warm_host, f"there-{step}", tmp_path, training=WORSE, run_checkpoint=str(there))
    assert [result["training"][name] for name in ("steps", "best_step", "best_metric")] == [6, told["best_step"], told["best_metric"]]
    left = load_file(Path(result["final_model_path"]) / "model.safetensors")
    assert all(left[name].equal(tensor) for name, tensor in best.items())


@pytest.mark.models
def test_best_weights_that_are_lost_are_not_claimed(warm_host: DrivenHost, tmp_path: Path) -> None:
    told, _, there = moved_checkpoint(warm_host, "lost-here", tmp_path, 4)
    shutil.rmtree(there / "best")
    assert train(warm_host, "lost-there", tmp_path, training=WORSE, run_checkpoint=str(there))["training"]["best_step"] in (5, 6)
    said = [line for frame in warm_host.frames if isinstance(frame, Telemetry) and frame.task == "lost-there" for line in frame.lines]
    assert any(f"the weights of step {told['best_step']}, which were best, are not in checkpoint-4" in line for line in said)


@pytest.mark.models
def test_a_loss_that_is_no_number_fails_the_task_with_what_to_do(warm_host: DrivenHost, tmp_path: Path) -> None:
    learn = {"max_steps": 60, "learning_rate": 1e30, "max_grad_norm": 0.0, "logging_steps": 1, "lr_scheduler_type": "constant"}
    warm_host.send(task("diverges", "sft", tmp_path, model={"source": SCRATCH}, data={"type": "list", "items": PAIRS}, training=learn))
    error = warm_host.wait_of(Failed, "diverges").error
    assert error.type == "Diverged"
    assert "lower the learning_rate" in error.message
    assert not error.retryable


@pytest.mark.models
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_that_is_said(warm_host: DrivenHost, tmp_path: Path) -> None:
    settings = {"keep_checkpoints": True, "save_strategy": "steps", "save_steps": 2}
    train(warm_host, "kept", tmp_path, training=settings)
    folder = tmp_path / "kept" / "artifacts" / "checkpoints"
    weights = folder / "checkpoint-6" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert usable_checkpoint(folder / "checkpoint-6", folder)[0] == folder / "checkpoint-4"
    result = train(warm_host, "goes-on", tmp_path, training=settings, run_checkpoint=str(folder / "checkpoint-6"))
    said = [line for frame in warm_host.frames if isinstance(frame, Telemetry) and frame.task == "goes-on" for line in frame.lines]
    assert any("checkpoint-6 cannot be gone on from: model.safetensors" in line for line in said)
    assert "training from step 4 to 6" in said
    assert result["training"]["steps"] == 6
    (folder / "checkpoint-4" / "trainer_state.json").write_text("{")
    train(warm_host, "anew", tmp_path, training=settings, run_checkpoint=str(folder / "checkpoint-6"))
    said = [line for frame in warm_host.frames if isinstance(frame, Telemetry) and frame.task == "anew" for line in frame.lines]
    assert "training from the beginning: there is no checkpoint that is whole" in said
    saved = [frame.step for frame in warm_host.frames if isinstance(frame, CheckpointDone) and frame.task == "anew"]
    assert saved == [2, 4, 6]
