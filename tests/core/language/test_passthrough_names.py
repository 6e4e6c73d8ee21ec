"""The names that pass through are those of the installed libraries, besides our own."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from mloc.core.language.inference_spec import Inference
from mloc.core.language.passthrough_bounds import BOUNDS
from mloc.core.language.passthrough_names import GENERATION, SECTIONS, TRAINING, VLLM

OURS = {
    "ppo_epochs", "mini_batch_size", "max_new_tokens", "auto_deepspeed", "auto_deepspeed_stage", "zero_stage", "nproc_per_node",
    "early_stopping", "early_stopping_patience", "early_stopping_threshold", "target_kl", "kl_coef", "cliprange", "cliprange_value",
    "vf_coef", "gamma", "lam", "save_model", "keep_checkpoints", "allow_multi_gpu", "visible_devices", "whiten_rewards", "eval_split",
    "presence_penalty", "frequency_penalty", "seed", "n",
}  # fmt: skip


def test_an_alias_leads_to_a_known_name_and_is_none_itself() -> None:
    for section, names in SECTIONS.items():
        assert set(names.aliases.values()) <= names.kinds.keys(), section
        assert names.aliases.keys().isdisjoint(names.kinds), section
        assert names.dead.isdisjoint(names.kinds), section
        assert names.dead.isdisjoint(names.aliases), section


def test_bounds_are_of_numbers_that_are_known() -> None:
    for section, bounds in BOUNDS.items():
        assert all(SECTIONS[section].kinds.get(name) in ("int", "float") for name in bounds), section


@pytest.mark.models
@pytest.mark.deep
def test_the_trainers_take_the_names_that_are_known() -> None:
    trl = pytest.importorskip("trl")
    configs = (trl.SFTConfig, trl.DPOConfig, trl.KTOConfig, trl.GRPOConfig, trl.RLOOConfig, trl.RewardConfig)
    taken = {field.name for config in configs for field in dataclasses.fields(config)}
    assert TRAINING.kinds.keys() - taken - OURS == set()


@pytest.mark.models
@pytest.mark.deep
def test_generation_takes_the_names_that_are_known() -> None:
    transformers = pytest.importorskip("transformers")
    assert GENERATION.kinds.keys() - vars(transformers.GenerationConfig()).keys() - OURS == set()


@pytest.mark.models
@pytest.mark.deep
def test_the_engine_takes_the_names_that_are_known() -> None:
    arguments = pytest.importorskip("vllm.engine.arg_utils")
    assert VLLM.kinds.keys() - {field.name for field in dataclasses.fields(arguments.EngineArgs)} == set()


@pytest.mark.models
@pytest.mark.deep
def test_no_name_of_the_libraries_is_missing() -> None:
    trl, arguments = pytest.importorskip("trl"), pytest.importorskip("vllm.engine.arg_utils")
    transformers = pytest.importorskip("transformers")
    configs = (trl.SFTConfig, trl.DPOConfig, trl.KTOConfig, trl.GRPOConfig, trl.RLOOConfig, trl.RewardConfig)
    for names, taken in (
        (TRAINING, {field.name for config in configs for field in dataclasses.fields(config)}),
        (GENERATION, vars(transformers.GenerationConfig()).keys() - {"transformers_version"}),
        (VLLM, {field.name for field in dataclasses.fields(arguments.EngineArgs)} - {"model"}),  # the task's source says it
    ):
        assert {name for name in taken if not name.startswith("_")} - names.kinds.keys() - names.dead == set()


@pytest.mark.models
@pytest.mark.deep
def test_inference_takes_every_sampling_parameter_of_vllm() -> None:
    sampling = pytest.importorskip("vllm.sampling_params")
    taken = {name for name in sampling.SamplingParams.__struct_fields__ if not name.startswith("_")}
    assert taken - {field.encode_name for field in msgspec.structs.fields(Inference)} == set()
