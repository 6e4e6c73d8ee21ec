"""`training` as the trainer takes it: every name checked against the library's own config class, before a model is loaded."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.training import evaluation, parallelism, rank_launch
from mloc.executors.training.precision import precision_of
from mloc.executors.training.trackers import trackers_of

# Ours, not the trainer's: what they ask for is done around it.
OWN_NAMES = frozenset({"keep_checkpoints", "save_model"}) | evaluation.OWN_NAMES | rank_launch.OWN_NAMES | parallelism.OWN_NAMES
# Of other kinds of training: nothing here acts on them.
WITHOUT_EFFECT = frozenset({"mini_batch_size", "kl_coef", "target_kl", "ppo_epochs", "whiten_rewards"})
MAX_CHECKPOINTS = 2


def trainer_config(config_class: Any, spec: TaskSpec, context: Context, defaults: Mapping[str, Any] = MappingProxyType({})) -> tuple[Any, list[str]]:
    """(config, notes for the log). Raises ExecutorError for a name that the class does not have, or a value that it refuses."""
    given = {name: value for name, value in spec.training.items() if name not in OWN_NAMES}
    notes = [f"training.{name} has no effect here" for name in given if name in WITHOUT_EFFECT]
    given = {name: value for name, value in given.items() if name not in WITHOUT_EFFECT}
    given |= parallelism.fsdp_settings(given, context)
    given["report_to"] = trackers_of(given)
    given |= parallelism.deepspeed_settings(spec.training, context)
    known = {field.name for field in dataclasses.fields(config_class) if field.init}
    if "warmup_ratio" in given and "warmup_ratio" not in known:
        given.setdefault("warmup_steps", given.pop("warmup_ratio"))  # below 1 it means a share of all steps
        given.pop("warmup_ratio", None)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"did you mean {near[0]}?" if near else "the reference of the trainer's config lists them"
            raise ExecutorError("UnknownSetting", f"training.{name} is no setting of {config_class.__name__}; {hint}")
    try:
        config = config_class(**{**_defaults(spec, context), **defaults, **given, **_ours(spec, context)})
        if config.n_gpu > 1:  # more devices than are to be used: the trainer would spread its threads over all of them
            config._n_gpu = 1
        parallelism.shard_between(config)
        return config, notes
    except (TypeError, ValueError) as error:
        raise ExecutorError("BadSetting", f"training: {config_class.__name__} refuses these settings: {error}") from error


def _defaults(spec: TaskSpec, context: Context) -> dict[str, Any]:
    on_device, autocast = bool(context.devices), precision_of(spec, context).autocast
    return {
        "seed": context.seed,
        "logging_steps": 10,
        "save_total_limit": MAX_CHECKPOINTS,
        "bf16": autocast == "bf16",
        "fp16": autocast == "fp16",
        "gradient_checkpointing": bool(spec.model.config.get("gradient_checkpointing", on_device)),
        "dataloader_pin_memory": on_device,
        "logging_nan_inf_filter": False,  # a loss that is no number any more is to be seen
    }


def _ours(spec: TaskSpec, context: Context) -> dict[str, Any]:
    """What the task does not choose: each attempt has a folder of its own, progress goes out as telemetry."""
    on_cpu = not context.devices and not parallelism.wants_deepspeed(spec.training)  # which has an accelerator of its own, of the CPU too
    return {"output_dir": str(context.artifacts / "checkpoints"), "disable_tqdm": True, "use_cpu": on_cpu, "push_to_hub": False}
