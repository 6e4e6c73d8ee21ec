"""DeepSpeed and FSDP as a task asks for them: their settings are passed on to accelerate; ours only write the shortest of them out."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mloc.core.needs.parts import wants_deepspeed
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.durable_files import link_or_copy
from mloc.executors.ranks import in_rank, rank

OWN_NAMES = frozenset({"auto_deepspeed", "auto_deepspeed_stage", "zero_stage"})
STAGES = (0, 1, 2, 3)
_BY_TRAINER = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
_OF_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json")


def deepspeed_settings(training: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """`{"deepspeed": configuration}` for the trainer, or nothing. Raises ExecutorError where it is not installed or its settings are wrong."""
    if not wants_deepspeed(training):
        return {}
    config = _config(training, context)
    if importlib.util.find_spec("deepspeed") is None:
        said = "training.deepspeed needs the package deepspeed: DS_BUILD_OPS=0 pip install deepspeed (on the worker), or use training.fsdp"
        raise ExecutorError("MissingDependency", said)
    return {"deepspeed": _leaving_whole_weights(config), **({} if context.devices else _without_devices(training))}


def _leaving_whole_weights(config: dict[str, Any]) -> dict[str, Any]:
    """At stage 3 each rank holds a part of the weights, and DeepSpeed leaves them so unless it is told to gather them."""
    zero = config.get("zero_optimization")
    if not isinstance(zero, dict) or zero.get("stage") != 3:
        return config
    return {**config, "zero_optimization": {**zero, "stage3_gather_16bit_weights_on_model_save": True}}


def _without_devices(training: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for DeepSpeed between processes of the CPU, over gloo: the trainer takes it up there only where it finds everything begun."""
    from accelerate import PartialState

    os.environ |= {"DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_TORCH_DEVICE": "cpu"}
    PartialState(backend="gloo")
    return {"accelerator_config": {**(training.get("accelerator_config") or {}), "use_configured_state": True}}


def _config(training: Mapping[str, Any], context: Context) -> dict[str, Any]:
    given = training.get("deepspeed")
    if isinstance(given, str):
        try:
            given = json.loads(open(context.local(given), encoding="utf-8").read())  # noqa: SIM115
        except (OSError, ValueError) as error:
            raise ExecutorError("BadSetting", f"training.deepspeed: {training['deepspeed']} is no JSON file that can be read: {error}") from error
    if isinstance(given, dict):
        return given
    stage = training.get("zero_stage", training.get("auto_deepspeed_stage", 2))
    if stage not in STAGES:
        raise ExecutorError("BadSetting", f"training.zero_stage must be one of {', '.join(map(str, STAGES))}; found {stage!r}")
    half = {name: {"enabled": "auto"} for name in ("fp16", "bf16")}
    return {"zero_optimization": {"stage": stage}, **half, **dict.fromkeys(_BY_TRAINER, "auto")}


FSDP_WORDS = frozenset({"full_shard", "shard_grad_op", "hybrid_shard", "hybrid_shard_zero2", "no_shard", "offload", "auto_wrap"})
_RESHARDS = {"full_shard": True, "shard_grad_op": False}  # of the words for FSDP2: whether weights are parted again after the way forward


def is_sharded(training: Mapping[str, Any]) -> bool:
    """Whether this rank gets its part of the weights from FSDP or DeepSpeed: no device is to hold all of them before."""
    return in_rank() and bool(training.get("fsdp") or wants_deepspeed(training))


def fsdp_settings(training: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """`fsdp` given as words, as the trainer takes it from transformers 5.20 on: a switch, and the words' meaning in `fsdp_config`. Nothing where it
    is no words. Raises ExecutorError for a word that FSDP does not know."""
    given = training.get("fsdp")
    words = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    for word in words:
        if word not in FSDP_WORDS:
            raise ExecutorError("BadSetting", f"training.fsdp: {word!r} is none of {', '.join(sorted(FSDP_WORDS))}")
    if not words:
        return {"fsdp_config": _fsdp_config(training["fsdp_config"], context)} if given and isinstance(training.get("fsdp_config"), str) else {}
    config = _fsdp_config(training.get("fsdp_config"), context)
    is_older = int(config.get("version", 2)) < 2
    for word in words:
        if word == "offload":
            config.setdefault("cpu_offload", True)
        elif word != "auto_wrap":  # which is so anyway
            if not is_older and word not in _RESHARDS:
                said = f"{word!r} is of the older FSDP; use full_shard or shard_grad_op, or training.fsdp_config {{version: 1}} on GPUs"
                raise ExecutorError("BadSetting", f"training.fsdp: {said}")
            config.setdefault("reshard_after_forward", word if is_older else _RESHARDS[word])
    return {"fsdp": True, "fsdp_config": config}


def _fsdp_config(given: Any, context: Context) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            given = json.loads(Path(context.local(given)).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ExecutorError("BadSetting", f"training.fsdp_config: {given} is no JSON file that can be read: {error}") from error
    return {name.removeprefix("fsdp_"): value for name, value in (given or {}).items()}


def shard_between(config: Any) -> None:
    """Have accelerate shard by FSDP between processes of the CPU too. It looks for FSDP only where processes have devices, and would give each of
    them the whole model otherwise, without a word; told that they have some, it asks torch, which shards over gloo. `config`: the trainer's.

    Raises ExecutorError for the older FSDP, which cannot do that."""
    from accelerate.utils import DistributedType

    if config.fsdp and config.distributed_state.distributed_type == DistributedType.MULTI_CPU:
        if int(config.fsdp_config.get("version", 2)) < 2:
            raise ExecutorError("BadSetting", "training.fsdp_config: version 1 shards between GPUs only; leave it out, version 2 runs on the CPU too")
        config.distributed_state.distributed_type = DistributedType.MULTI_GPU  # until FSDP takes its place; the device stays the CPU


def save_gathered(trainer: Any, final: Path, lying: Path | None = None) -> None:
    """Whole weights in the folder, of a trainer whose every rank holds a part of them; each rank has to come here. `lying`: the checkpoint that
    they are in already, where nothing was trained."""
    if lying is not None:
        if rank() == 0:
            _copy_weights(lying, final)
        return
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")  # checkpoints may be kept in parts, these not
    trainer.save_model(str(final))
    if rank() == 0:
        (final / "training_args.bin").unlink(missing_ok=True)  # a pickle with this machine's paths


def _copy_weights(checkpoint: Path, final: Path) -> None:
    final.mkdir(parents=True, exist_ok=True)
    for pattern in _OF_WEIGHTS:
        for file in checkpoint.glob(pattern):
            link_or_copy(file, final / file.name)
