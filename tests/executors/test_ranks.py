"""Training in several processes on the CPU: one result, one report, one end."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from driven_host import DrivenHost, is_gone, task, wait_until
from pipeline_run import published_result

from mloc.core.host_frames import CheckpointDone, Failed, RunTask, Stopped, Telemetry
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.ranks import MARK
from mloc.executors.training.parallelism import deepspeed_settings, fsdp_settings, is_sharded, shard_between
from mloc.executors.training.rank_launch import Launch, launch_of

SCRATCH = {"type": "scratch", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
PAIRS = [{"prompt": f"What is {i}?", "response": f"{i} is a number."} for i in range(16)]
NOWHERE = Path("/nonexistent")


def context(devices: int) -> Context:
    return Context(
        folder=NOWHERE, final_folder=NOWHERE, rows_folder=NOWHERE, inputs={}, devices=tuple(range(devices)), shard=None, checkpoint=None, seed=0,
        stopping=lambda: False, report=lambda said: None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("training", "devices", "launch"),
    [
        ({}, 0, None), ({}, 1, None), ({}, 4, Launch(4, (0, 1, 2, 3))), ({"allow_multi_gpu": False}, 4, None), ({"nproc_per_node": 2}, 0, Launch(2)),
        ({"nproc_per_node": 2}, 4, Launch(2, (0, 1))), ({"visible_devices": "1,3"}, 4, Launch(2, (1, 3))),
        ({"visible_devices": [2]}, 4, Launch(1, (2,))), ({"visible_devices": 0}, 4, None),
        ({"visible_devices": "2,3", "allow_multi_gpu": False}, 4, Launch(1, (2,))), ({"visible_devices": "1,0"}, 2, Launch(2, (1, 0))),
        ({"visible_devices": "0,1"}, 0, None),
    ],
)  # fmt: skip
def test_there_are_as_many_ranks_as_devices_or_as_it_is_asked_for(training: dict[str, Any], devices: int, launch: Launch | None) -> None:
    assert launch_of(TaskSpec("sft", training=training), context(devices)) == launch


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"nproc_per_node": 0}, "at least 1"), ({"nproc_per_node": 3}, "has 2 devices"), ({"visible_devices": "0,7"}, "no device 7"),
        ({"visible_devices": "all"}, "must be numbers"),
    ],
)  # fmt: skip
def test_ranks_that_cannot_be_are_refused(training: dict[str, Any], said: str) -> None:
    with pytest.raises(ExecutorError, match=said):
        launch_of(TaskSpec("sft", training=training), context(2))


def test_deepspeed_is_written_out_or_its_lack_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExecutorError, match="pip install deepspeed") as raised:
        deepspeed_settings({"auto_deepspeed": True}, context(1))
    assert raised.value.type == "MissingDependency"
    with pytest.raises(ExecutorError, match="zero_stage must be one of"):
        deepspeed_settings({"zero_stage": 7}, context(1))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert deepspeed_settings({"zero_stage": 2}, context(1))["deepspeed"]["zero_optimization"] == {"stage": 2}
    whole = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}  # else the final weights would stay in parts
    assert deepspeed_settings({"zero_stage": 3}, context(1))["deepspeed"]["zero_optimization"] == whole
    assert deepspeed_settings({"deepspeed": {"zero_optimization": {"stage": 3}}}, context(1)) == {"deepspeed": {"zero_optimization": whole}}
    assert deepspeed_settings({"deepspeed": {"a": 1}, "zero_stage": 3}, context(1)) == {"deepspeed": {"a": 1}}
    assert deepspeed_settings({"auto_deepspeed": False}, context(1)) == {}


def test_fsdp_is_told_in_its_own_words(tmp_path: Path) -> None:
    for given, meant in (
        ({"fsdp": "full_shard auto_wrap"}, {"reshard_after_forward": True}), ({"fsdp": ["shard_grad_op"]}, {"reshard_after_forward": False}),
        ({"fsdp": "offload", "fsdp_config": {"fsdp_min_num_params": 9}}, {"cpu_offload": True, "min_num_params": 9}),
        ({"fsdp": "full_shard", "fsdp_config": {"reshard_after_forward": False}}, {"reshard_after_forward": False}),
        ({"fsdp": "hybrid_shard", "fsdp_config": {"version": 1}}, {"version": 1, "reshard_after_forward": "hybrid_shard"}),
    ):  # fmt: skip
        assert fsdp_settings(given, context(2)) == {"fsdp": True, "fsdp_config": meant}
    (file := tmp_path / "fsdp.json").write_text('{"fsdp_version": 2}')
    assert fsdp_settings({"fsdp": True, "fsdp_config": str(file)}, context(2)) == {"fsdp_config": {"version": 2}}
    for given in ({}, {"fsdp": True, "fsdp_config": {"version": 2}}, {"fsdp": ""}):
        assert fsdp_settings(given, context(2)) == {}
    for word, said in (("full_shared", "'full_shared' is none of"), ("no_shard", "of the older FSDP")):
        with pytest.raises(ExecutorError, match=said):
            fsdp_settings({"fsdp": word}, context(2))


def test_no_device_holds_a_whole_model_that_is_to_be_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = ({"fsdp": True}, {"zero_stage": 3}, {"deepspeed": {"zero_optimization": {"stage": 3}}})
    assert not any(is_sharded(training) for training in asking)  # one process has all of it
    monkeypatch.setenv(MARK, "1")
    assert all(is_sharded(training) for training in asking)
    assert not is_sharded({"fsdp": False})


@pytest.mark.models
def test_a_model_that_is_to_be_sharded_stays_in_main_memory(random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mloc.core.language.model_spec import LocalSource, Model
    from mloc.executors.models import model_loading
    from mloc.executors.training.trl_training import load_trainable

    moved: list[Any] = []
    monkeypatch.setattr(model_loading, "_placed", lambda model, *_: moved.append(model) or model)
    monkeypatch.setenv(MARK, "1")
    for training in ({"fsdp": True}, {"zero_stage": 3}, {}):
        load_trainable(TaskSpec("sft", model=Model(source=LocalSource(str(random_model))), training=training), context(0), ())
    assert len(moved) == 1


@pytest.mark.models
def test_the_older_fsdp_is_refused_on_the_cpu() -> None:
    from accelerate.utils import DistributedType

    ranks = SimpleNamespace(distributed_type=DistributedType.MULTI_CPU)
    with pytest.raises(ExecutorError, match="version 1 shards between GPUs only"):
        shard_between(SimpleNamespace(fsdp=True, fsdp_config={"version": 1}, distributed_state=ranks))
    shard_between(SimpleNamespace(fsdp=None, fsdp_config=None, distributed_state=ranks))
    assert ranks.distributed_type == DistributedType.MULTI_CPU  # nothing asks for it


def training(name: str, folder: Path, task_type: str = "sft", **given: Any) -> RunTask:
    settings = {
        "nproc_per_node": 2, "max_steps": 6, "per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 1e-2, "save_strategy": "steps",
        "save_steps": 2, "seed": 3, **given.pop("training", {}),
    }  # fmt: skip
    return task(name, task_type, folder, training=settings, **{"model": {"source": SCRATCH}, "data": {"type": "list", "items": PAIRS}, **given})


def ranks_of(host: DrivenHost) -> list[int]:
    """Pids of the ranks that the host started, rank 0 first."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        if b"mloc.executors.training.rank" in words and parent == host.child.pid:
            found.append(int(place.name))
    return sorted(found)


def started(host: DrivenHost, name: str, step: int = 1) -> None:
    host.wait_for(lambda frame: isinstance(frame, Telemetry) and frame.task == name and "loss" in frame.metrics and frame.step >= step)


@pytest.mark.models
@pytest.mark.deep
def test_two_ranks_train_one_model_and_only_rank_0_reports(warm_host: DrivenHost, tmp_path: Path) -> None:
    warm_host.send(training("two", tmp_path))
    result = published_result(warm_host, "two", tmp_path)
    assert result["training"]["steps"] == 6
    assert result["training"]["epochs"] == pytest.approx(3.0)  # eight rows a step between them
    assert result["training"]["final_loss"] < result["training"]["first_loss"]
    steps = [frame.step for frame in warm_host.frames if isinstance(frame, Telemetry) and frame.task == "two" and "loss" in frame.metrics]
    assert steps == [1, 2, 3, 4, 5, 6]
    saved = [frame.step for frame in warm_host.frames if isinstance(frame, CheckpointDone) and frame.task == "two"]
    assert saved == [2, 4, 6]
    assert (Path(result["final_model_path"]) / "README.md").is_file()
    assert ranks_of(warm_host) == []


@pytest.mark.models
@pytest.mark.deep
@pytest.mark.timeout(600)
def test_ranks_that_share_the_weights_train_as_one_rank_does_and_go_on_from_a_checkpoint(warm_host: DrivenHost, tmp_path: Path) -> None:
    # given what one rank makes of eight rows a step
    learn = {"fsdp": True, "keep_checkpoints": True, "lr_scheduler_type": "constant"}
    warm_host.send(training("alone", tmp_path, training={**learn, "fsdp": False, "nproc_per_node": 1, "per_device_train_batch_size": 8}))
    alone = published_result(warm_host, "alone", tmp_path)
    # when two ranks have half of the weights each, from the beginning and from a checkpoint on
    warm_host.send(training("shared", tmp_path, training=learn))
    shared = published_result(warm_host, "shared", tmp_path)
    checkpoint = tmp_path / "shared" / "artifacts" / "checkpoints" / "checkpoint-4"
    warm_host.send(training("resumed", tmp_path, run_checkpoint=str(checkpoint), training=learn))
    resumed = published_result(warm_host, "resumed", tmp_path)
    # then the curve is that of one rank, and the weights are whole
    for result in (shared, resumed):
        assert losses_of(result) == pytest.approx(losses_of(alone), abs=1e-4)
        weights = weights_of(result)
        for name, tensor in weights_of(alone).items():
            assert tensor.allclose(weights[name], atol=1e-4), name
    assert (checkpoint / "pytorch_model_fsdp.bin").is_file()
    assert not (Path(shared["final_model_path"]) / "training_args.bin").exists()
    assert "training from step 4 to 6" in [line for frame in warm_host.frames if isinstance(frame, Telemetry) for line in frame.lines]


@pytest.mark.models
@pytest.mark.deep
@pytest.mark.timeout(900)  # DeepSpeed compiles what it sends between processes of the CPU with, the first time
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DS_BUILD_OPS=0 pip install deepspeed")
@pytest.mark.parametrize("stage", [2, 3])
def test_ranks_train_with_deepspeed_and_leave_whole_weights(tmp_path: Path, stage: int) -> None:
    host = DrivenHost(deadline_sec=600)
    try:
        learn = {"zero_stage": stage, "keep_checkpoints": True, "lr_scheduler_type": "constant"}
        host.send(training("parts", tmp_path, training=learn))
        parts = published_result(host, "parts", tmp_path)
        checkpoint = tmp_path / "parts" / "artifacts" / "checkpoints" / "checkpoint-4"
        host.send(training("resumed", tmp_path, run_checkpoint=str(checkpoint), training=learn))
        resumed = published_result(host, "resumed", tmp_path)
        host.send(training("ended", tmp_path, run_checkpoint=str(checkpoint.with_name("checkpoint-6")), training=learn))
        ended = published_result(host, "ended", tmp_path)
        host.send(training("alone", tmp_path, training={"nproc_per_node": 1, "per_device_train_batch_size": 8, "lr_scheduler_type": "constant"}))
        alone = published_result(host, "alone", tmp_path)
    finally:
        host.close()
    assert list((checkpoint / "global_step4").glob("zero_pp_rank_1_*"))
    assert losses_of(resumed) == pytest.approx(losses_of(parts), abs=1e-4)
    if stage == 2:  # at stage 3 a model from scratch begins with other numbers
        assert losses_of(parts) == pytest.approx(losses_of(alone), abs=1e-4)
    whole = weights_of(alone)
    for result in (parts, resumed, ended):
        assert {name: tuple(weights_of(result)[name].shape) for name in whole} == {name: tuple(tensor.shape) for name, tensor in whole.items()}


def losses_of(result: dict[str, Any]) -> list[float]:
    return [point["loss"] for point in result["training"]["history"] if "loss" in point]


def weights_of(result: dict[str, Any]) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(Path(result["final_model_path"]) / "model.safetensors")


@pytest.mark.models
@pytest.mark.deep
def test_two_ranks_of_ppo_train_one_model_and_leave_a_checkpoint_of_both(warm_host: DrivenHost, tmp_path: Path) -> None:
    learn = {"save_steps": 3, "keep_checkpoints": True, "mini_batch_size": 2, "target_kl": 0.5, "eval_split": 3, "eval_strategy": "epoch"}
    rewarded = {"rewards": [{"type": "regex", "pattern": "a"}], "generation": {"max_new_tokens": 6}}
    warm_host.send(training("ppo", tmp_path, "ppo", training=learn, **rewarded))
    result = published_result(warm_host, "ppo", tmp_path)
    told = [frame.step for frame in warm_host.frames if isinstance(frame, Telemetry) and frame.task == "ppo" and "loss" in frame.metrics]
    assert told == [1, 2, 3, 4, 5, 6]
    assert result["training"]["epochs"] == pytest.approx(48 / 13, abs=1e-3)  # eight prompts an update between them
    assert [point["step"] for point in result["training"]["history"] if "eval_kl" in point] == [2, 4, 5, 6]
    assert (Path(result["final_model_path"]) / "README.md").is_file()
    assert result["usage"]["total_tokens"] > 6 * 8 * 6  # the prompts' too, of both
    checkpoint = tmp_path / "ppo" / "artifacts" / "checkpoints" / "checkpoint-3" / "ppo_state.pt"
    first, second = torch_load(checkpoint)["random"]
    assert not first["cpu"].equal(second["cpu"])


def torch_load(file: Path) -> Any:
    import torch

    return torch.load(file, weights_only=True)


@pytest.mark.models
@pytest.mark.deep
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the ranks in /proc")
def test_a_rank_that_is_killed_ends_all_and_the_next_attempt_goes_on(warm_host: DrivenHost, tmp_path: Path) -> None:
    long = {"max_steps": 100_000}  # no machine is done with them before the kill
    warm_host.send(training("killed", tmp_path, training=long))
    warm_host.wait_for(lambda frame: isinstance(frame, CheckpointDone) and frame.task == "killed" and frame.step >= 4)
    ranks = ranks_of(warm_host)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    error = warm_host.wait_of(Failed, "killed").error
    assert error.type == "RankDied"
    assert "rank 1 of 2 was ended by SIGKILL" in error.message
    assert error.retryable
    wait_until(lambda: all(map(is_gone, ranks)))
    saved = [frame for frame in warm_host.frames if isinstance(frame, CheckpointDone) and frame.task == "killed"][-1]
    short = {"max_steps": saved.step + 4}
    warm_host.send(training("killed", tmp_path, attempt=2, run_checkpoint=saved.path, training=short))
    assert published_result(warm_host, "killed", tmp_path, attempt=2)["training"]["steps"] == saved.step + 4


@pytest.mark.models
@pytest.mark.deep
def test_ranks_stop_at_the_same_step_with_a_checkpoint(warm_host: DrivenHost, tmp_path: Path) -> None:
    warm_host.send(training("stopped", tmp_path, training={"max_steps": 100_000, "save_strategy": "no"}))
    started(warm_host, "stopped", 3)
    warm_host.stop("stopped")
    warm_host.wait_of(Stopped, "stopped")
    assert warm_host.wait_of(CheckpointDone, "stopped").step >= 3
    assert ranks_of(warm_host) == []


@pytest.mark.models
@pytest.mark.deep
def test_what_is_wrong_is_said_by_the_first_rank_that_finds_it(warm_host: DrivenHost, tmp_path: Path) -> None:
    warm_host.send(training("wrong", tmp_path, training={"learning_rat": 1}))
    error = warm_host.wait_of(Failed, "wrong").error
    assert "did you mean learning_rate?" in error.message
    assert not error.retryable
