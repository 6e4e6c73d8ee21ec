"""TensorBoard, Weights & Biases and MLflow beside our own curves: offline, in the task's artifacts, or refused with what to install."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from driven_host import DrivenHost, task
from pipeline_run import published_result

from mloc.executors.contract import Context, ExecutorError
from mloc.executors.training.trackers import tracked, trackers_of

SCRATCH = {"type": "scratch", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
REWARDED = {"rewards": [{"type": "regex", "pattern": "^yes"}], "generation": {"max_new_tokens": 4}}
PAIRS = [{"prompt": f"What is {i}?", "response": f"{i} is a number."} for i in range(16)]


@pytest.mark.parametrize("given", [None, "none", [], ["none"]])
def test_nothing_is_told_to_anybody_unless_it_is_asked_for(given: Any) -> None:
    assert trackers_of({"report_to": given}) == []


def test_a_tracker_that_is_unknown_or_not_installed_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExecutorError, match="'wandbb' is none of tensorboard, wandb, mlflow"):
        trackers_of({"report_to": "wandbb"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExecutorError, match="pip install mlflow-skinny") as raised:
        trackers_of({"report_to": ["mlflow"]})
    assert raised.value.type == "MissingDependency"
    assert trackers_of({"report_to": "all"}) == []


def test_the_environment_is_as_before_and_what_a_worker_says_itself_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(
        folder=tmp_path, final_folder=tmp_path, rows_folder=tmp_path, inputs={}, devices=(), shard=None, checkpoint=None, seed=0,
        stopping=lambda: False, report=lambda said: None,
    )  # fmt: skip
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "/elsewhere")
    before = dict(os.environ)
    with tracked(["tensorboard"], "t1", context):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == "/elsewhere"
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    with tracked(["tensorboard"], "t1", context):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "artifacts" / "tensorboard")
    assert {**os.environ, "TENSORBOARD_LOGGING_DIR": "/elsewhere"} == before


@pytest.mark.models
@pytest.mark.extras
@pytest.mark.parametrize(("tracker", "left"), [("tensorboard", "events.out.tfevents.*"), ("wandb", "run-*.wandb"), ("mlflow", "meta.yaml")])
def test_a_tracker_writes_into_the_artifacts_without_a_network(warm_host: DrivenHost, tmp_path: Path, tracker: str, left: str) -> None:
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed")
    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "save_strategy": "no", "report_to": tracker}
    for kind, more in (("sft", {}), ("ppo", REWARDED)):
        name = f"{kind}-{tracker}"
        data = {"type": "list", "items": PAIRS}
        warm_host.send(task(name, kind, tmp_path, model={"source": SCRATCH}, data=data, training=settings, **more))
        published_result(warm_host, name, tmp_path)
        assert list((tmp_path / name / "artifacts" / tracker).rglob(left)), kind
