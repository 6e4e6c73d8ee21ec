"""In which precision a training keeps its weights, and in which it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context
from mloc.executors.models.model_loading import dtype_asked
from mloc.executors.training.trained_weights import adapter_of

Autocast = Literal["no", "bf16", "fp16"]
_TYPES = {"no": "bfloat16", "bf16": "bfloat16", "fp16": "float16"}


class Precision(Struct, frozen=True):
    """`weights`: torch's type of what is loaded, unless `model.transformers` names one. `autocast`: what the trainer computes in."""

    weights: str
    autocast: Autocast


def precision_of(spec: TaskSpec, context: Context) -> Precision:
    """What suits the task and its device. Looks at the device, so it is not for a process that only starts others."""
    on_device = bool(context.devices)
    has_bf16 = False
    if on_device:
        import torch

        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return suited(spec.training, spec.model.config, adapter_of(spec) is None, on_device, has_bf16)


def suited(training: Mapping[str, Any], config: Mapping[str, Any], is_whole: bool, on_device: bool, has_bf16: bool) -> Precision:
    """Weights that are all trained are float32, also where `model.config` asks for half: a step of 1e-5 is lost in the rounding of a bfloat16, and
    a gradient in float16 cannot be scaled; autocast computes in half all the same. What lies frozen below an adapter is as `model.config` says,
    else in half on a device.

    `is_whole`: all weights are trained. `has_bf16`: the device computes in it by itself."""
    autocast = _autocast(training, config, on_device, has_bf16)
    if is_whole:
        return Precision("float32", autocast)
    return Precision(dtype_asked(config) or (_TYPES[autocast if has_bf16 else "fp16"] if on_device else "float32"), autocast)


def _autocast(training: Mapping[str, Any], config: Mapping[str, Any], on_device: bool, has_bf16: bool) -> Autocast:
    """`training` goes before `model.config`, and that before what the device does best."""
    wanted: Autocast = "bf16" if has_bf16 else "fp16"
    if training.get("bf16") or training.get("fp16"):
        wanted = "bf16" if training.get("bf16") else "fp16"
    elif config.get("bf16") or config.get("fp16"):
        wanted = "bf16" if config.get("bf16") else "fp16"
    elif not on_device or config.get(wanted) is False or (wanted == "fp16" and config.get("bf16") is False):
        return "no"
    return "no" if training.get(wanted) is False else wanted
