"""PPO on prompts that it does not learn from: when, what is measured, which weights are kept, and when it stops early."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from driven_host import DrivenHost, task
from hypothesis import given
from hypothesis import strategies as st
from pipeline_run import published_result

from mloc.core.host_frames import Failed, Telemetry
from mloc.executors.contract import ExecutorError
from mloc.executors.training.evaluation import evaluation_of
from mloc.executors.training.ppo.ppo_evaluation import best_metric_of, is_due
from mloc.executors.training.ppo.ppo_settings import PpoSettings, evaluation_for_ppo

SCRATCH = {"type": "scratch", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
PROMPTS = [f"What is {i}?" for i in range(20)]
SAYS_A = [{"type": "regex", "pattern": "[a-e]"}]
STEADY = {"per_device_train_batch_size": 8, "lr_scheduler_type": "constant", "logging_steps": 1, "learning_rate": 1e-2, "save_strategy": "no"}


@given(st.integers(1, 60), st.integers(1, 20), st.floats(0.2, 30))
def test_each_moment_comes_as_often_as_it_should(updates: int, every: int, an_epoch: float) -> None:
    steps = [at for at in range(updates + 1) if is_due("steps", every, at, updates, an_epoch)]
    assert steps == list(range(every, updates + 1, every))
    epochs = [at for at in range(updates + 1) if is_due("epoch", every, at, updates, an_epoch)]
    assert epochs[-1] == updates
    assert len(epochs) <= math.floor(updates / an_epoch) + 1
    assert not any(is_due("no", every, at, updates, an_epoch) for at in range(updates + 1))


def test_a_share_of_all_updates_is_a_moment_too() -> None:
    assert [at for at in range(11) if is_due("steps", 0.3, at, 10, 4)] == [3, 6, 9]


def test_the_older_switch_of_target_kl_holds_nothing_out() -> None:
    assert evaluation_for_ppo({"target_kl": 0.1, "early_stopping": True}).split is None
    assert evaluation_for_ppo({"target_kl": 0.1, "early_stopping": True, "eval_split": 5}).patience == 1
    assert evaluation_for_ppo({"early_stopping": True}) == evaluation_of({"early_stopping": True}, "eval_reward")


@pytest.mark.parametrize(("named", "terms", "metric"), [
    (None, ["a"], "eval_reward"), ("kl", ["a"], "eval_kl"), ("eval_ended", ["a"], "eval_ended"), ("rewards/b", ["a", "b"], "eval_rewards/b"),
])  # fmt: skip
def test_the_best_weights_are_told_by_what_is_measured(named: str | None, terms: list[str], metric: str) -> None:
    assert best_metric_of(PpoSettings(metric_for_best_model=named), terms) == metric


def test_a_metric_that_is_not_measured_is_refused_with_those_that_are() -> None:
    with pytest.raises(ExecutorError, match="PPO measures no 'loss'; there are: eval_reward, "):
        best_metric_of(PpoSettings(metric_for_best_model="loss"), ["a"])


def train(host: DrivenHost, name: str, folder: Path, **given: Any) -> dict[str, Any]:
    host.send(ppo(name, folder, **given))
    return published_result(host, name, folder)


def ppo(name: str, folder: Path, **given: Any) -> Any:
    spec = {"model": {"source": SCRATCH}, "data": {"type": "list", "items": PROMPTS}, "rewards": SAYS_A, "generation": {"max_new_tokens": 6}}
    return task(name, "ppo", folder, **{**spec, **given, "training": {**STEADY, "seed": 3, **given.get("training", {})}})


def curve(result: dict[str, Any], name: str) -> dict[int, float]:
    return {point["step"]: point[name] for point in result["training"]["history"] if name in point}


@pytest.mark.models
def test_it_tells_reward_and_divergence_of_held_out_prompts_and_learns_the_same(warm_host: DrivenHost, tmp_path: Path) -> None:
    asked = {"max_steps": 4, "eval_split": 6, "eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True, "per_device_eval_batch_size": 4}
    result = train(warm_host, "looked-at", tmp_path, training=asked)
    told = [frame.metrics for frame in warm_host.frames if isinstance(frame, Telemetry) and "eval_reward" in frame.metrics]
    assert [frame["eval_reward"] for frame in told] == list(curve(result, "eval_reward").values())
    assert list(curve(result, "eval_reward")) == [0, 2, 4]
    assert curve(result, "eval_kl")[0] == 0.0
    assert curve(result, "eval_kl")[4] != 0.0
    assert result["training"]["final_eval_reward"] == pytest.approx(curve(result, "eval_reward")[4], abs=1e-4)
    card = (Path(result["final_model_path"]) / "README.md").read_text()
    assert "14 rows to learn from (list, written in the task); 6 others only" in card
    assert "eval_reward" in card
    unseen = train(warm_host, "not-looked-at", tmp_path, training={**asked, "eval_steps": 100, "eval_on_start": False})
    assert curve(unseen, "loss") == curve(result, "loss")


@pytest.mark.models
def test_it_stops_when_it_gets_no_better(warm_host: DrivenHost, tmp_path: Path) -> None:
    stuck = {"max_steps": 60, "learning_rate": 0.0, "early_stopping_patience": 2, "eval_steps": 1, "eval_split": 0.3}
    told = train(warm_host, "stuck", tmp_path, training=stuck)["training"]
    assert (told["steps"], told["best_step"], told["stopped_early"]) == (3, 1, True)


@pytest.mark.models
def test_the_weights_that_it_leaves_are_those_that_were_best(warm_host: DrivenHost, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    learn = {
        "max_steps": 6, "eval_steps": 1, "eval_split": 6, "load_best_model_at_end": True, "metric_for_best_model": "kl", "save_strategy": "steps",
        "save_steps": 1, "save_total_limit": 9, "keep_checkpoints": True,
    }  # fmt: skip
    result = train(warm_host, "nearest", tmp_path, training=learn)
    found = curve(result, "eval_kl")
    best = min(found, key=lambda step: found[step])
    assert (result["training"]["best_step"], result["training"]["best_metric"]) == (best, pytest.approx(found[best], abs=1e-4))
    assert found[6] > found[best]
    folder = tmp_path / "nearest" / "artifacts" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [f"checkpoint-{step}" for step in range(1, 6)]
    left = load_file(Path(result["final_model_path"]) / "model.safetensors")
    of_best, of_last = (torch.load(folder / f"checkpoint-{step}" / "ppo_state.pt", weights_only=True)["trained"] for step in (best, 5))
    assert all(of_best[f"policy.{name}"].equal(tensor) for name, tensor in left.items())
    assert best == 5 or not all(of_last[f"policy.{name}"].equal(tensor) for name, tensor in left.items())


@pytest.mark.models
def test_what_cannot_be_evaluated_is_refused_before_a_model_is_loaded(warm_host: DrivenHost, tmp_path: Path) -> None:
    nowhere = {"model": {"source": {"type": "local", "identifier": str(tmp_path / "nowhere")}}}
    for name, wrong, said in (("metric_for_best_model", "loss", "measures no 'loss'"), ("eval_strategy", "often", "one of no, steps")):
        warm_host.send(ppo(name, tmp_path, **nowhere, training={"load_best_model_at_end": True, name: wrong}))
        assert said in warm_host.wait_of(Failed, name).error.message
