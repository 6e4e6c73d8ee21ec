"""In which precision weights are trained: decided for devices that are not here, seen where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mloc.core.language.model_spec import Adapter, Model
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.models.model_loading import pretrained_settings
from mloc.executors.training.precision import Precision, precision_of, suited

H100, T4, CPU = (True, True), (True, False), (False, False)  # (is a device, computes in bfloat16 by itself)


def context(folder: Path, devices: tuple[int, ...] = ()) -> Context:
    return Context(
        folder=folder, final_folder=folder, rows_folder=folder, inputs={}, devices=devices, shard=None, checkpoint=None, seed=0,
        stopping=lambda: False, report=lambda said: None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("training", "config", "place", "autocast"),
    [
        ({}, {}, H100, "bf16"), ({}, {}, T4, "fp16"), ({}, {}, CPU, "no"),
        ({"fp16": True}, {}, H100, "fp16"), ({"bf16": True}, {}, T4, "bf16"), ({"bf16": True}, {}, CPU, "bf16"),
        ({"bf16": False}, {}, H100, "no"), ({"fp16": False}, {}, T4, "no"), ({"bf16": False}, {}, T4, "fp16"),
        ({}, {"fp16": True}, H100, "fp16"), ({}, {"bf16": True}, CPU, "bf16"), ({}, {"bf16": False}, H100, "no"), ({}, {"bf16": False}, T4, "no"),
        ({"fp16": True}, {"bf16": True}, H100, "fp16"), ({"bf16": False}, {"bf16": True}, H100, "no"),
    ],
)  # fmt: skip
def test_weights_that_are_all_trained_are_float32_and_half_is_for_computing(
    training: dict[str, Any], config: dict[str, Any], place: tuple[bool, bool], autocast: str
) -> None:
    assert suited(training, config, True, *place) == Precision("float32", autocast)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("training", "config", "place", "weights"),
    [
        ({}, {}, H100, "bfloat16"), ({}, {}, T4, "float16"), ({}, {}, CPU, "float32"), ({"bf16": True}, {}, CPU, "float32"),
        ({"fp16": True}, {}, H100, "float16"), ({"bf16": False}, {}, H100, "bfloat16"), ({"bf16": False, "fp16": False}, {}, T4, "float16"),
        ({}, {"bf16": True}, CPU, "bfloat16"), ({}, {"fp16": True}, H100, "float16"), ({}, {"bf16": False}, H100, "float32"),
        ({}, {"dtype": "float32"}, H100, "float32"), ({}, {"dtype": "bfloat16"}, CPU, "bfloat16"),
    ],
)  # fmt: skip
def test_weights_that_lie_frozen_below_an_adapter_are_as_the_task_says_else_in_half_on_a_device(
    training: dict[str, Any], config: dict[str, Any], place: tuple[bool, bool], weights: str
) -> None:
    assert suited(training, config, False, *place).weights == weights


@pytest.mark.models
@pytest.mark.parametrize("has_bf16", [True, False])
def test_the_device_is_asked_what_it_computes_in_by_itself(has_bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation=True: has_bf16 or including_emulation)
    whole, adapted = (TaskSpec("sft", model=Model(adapter=adapter)) for adapter in (None, Adapter()))
    there = context(tmp_path, (0,))
    assert precision_of(whole, there) == Precision("float32", "bf16" if has_bf16 else "fp16")
    assert precision_of(adapted, there).weights == ("bfloat16" if has_bf16 else "float16")
    assert pretrained_settings(whole, there, precision_of(whole, there).weights)["dtype"] == "float32"
    asked = TaskSpec("sft", model=Model(transformers={"dtype": "bfloat16"}))
    assert pretrained_settings(asked, there, precision_of(asked, there).weights)["dtype"] == "bfloat16"  # who names it gets it
    assert pretrained_settings(TaskSpec("inference"), there)["dtype"] == "bfloat16"


@pytest.mark.models
@pytest.mark.parametrize("given", [{}, {"fp16": True}, {"bf16": True}])
def test_the_trainer_is_never_told_of_two_precisions(given: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mloc.executors.training import training_settings

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    told = {**training_settings._defaults(TaskSpec("sft", training=given), context(tmp_path, (0,))), **given}
    assert (told["bf16"], told["fp16"]) == (not given.get("fp16"), bool(given.get("fp16")))


@pytest.mark.models
def test_small_steps_reach_the_weights_also_where_half_is_asked_for(random_model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import Trainer, TrainingArguments

    from mloc.core.language.model_spec import LocalSource
    from mloc.executors.training.training_settings import trainer_config
    from mloc.executors.training.trl_training import load_trainable

    model = Model(source=LocalSource(str(random_model)), config={"bf16": True})
    spec = TaskSpec("sft", model=model, training={"learning_rate": 1e-6, "max_steps": 3, "warmup_steps": 0, "lr_scheduler_type": "constant"})
    here = context(tmp_path)
    loaded = load_trainable(spec, here, ())
    before = torch.cat([weights.detach().float().flatten() for weights in loaded.model.parameters()])
    config, _ = trainer_config(TrainingArguments, spec, here)
    rows = [{"input_ids": list(range(10, 40)), "labels": list(range(10, 40))}] * 24
    Trainer(loaded.model, config, train_dataset=rows).train()
    after = torch.cat([weights.detach().float().flatten() for weights in loaded.model.parameters()])
    assert config.bf16
    assert (before != after).float().mean() > 0.5


@pytest.mark.models
def test_what_a_policy_is_worth_is_told_in_full_precision(random_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from mloc.executors.training.ppo.ppo_rollouts import actor_critic

    model = actor_critic(AutoModelForCausalLM.from_pretrained(random_model, dtype="float32"))
    sequences = torch.arange(24).reshape(2, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logprobs, values, entropies = model(sequences, torch.ones_like(sequences), 6, 1.0)
    assert {tensor.dtype for tensor in (logprobs, values, entropies)} == {torch.float32}


@pytest.mark.models
def test_what_an_adapter_saves_beside_its_own_weights_is_trained_in_full_precision(random_model: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from mloc.executors.training.trained_weights import keep_whole

    frozen = AutoModelForCausalLM.from_pretrained(random_model, dtype="bfloat16")
    model: Any = get_peft_model(frozen, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", modules_to_save=["lm_head"]))
    keep_whole(model)
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters() if not parameter.requires_grad} == {torch.bfloat16}


def test_a_reward_model_on_weights_of_four_bits_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    from mloc.executors.training import reward_executor

    with pytest.raises(ExecutorError, match="use type lora") as raised:
        reward_executor._load(TaskSpec("reward", model=Model(adapter=Adapter(type="qlora"))), context(tmp_path), ())
    assert not raised.value.retryable
