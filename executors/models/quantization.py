"""Weights that transformers quantises while it loads them (bitsandbytes), as `model.config` and QLoRA ask for them."""

from __future__ import annotations

import importlib.util
from typing import Any

from mloc.core.language.model_spec import Model
from mloc.executors.contract import ExecutorError

BITS = ("load_in_4bit", "load_in_8bit")
NO_BITS = "models that give vectors or marks are loaded whole by transformers; leave it out, or set inference.engine: vllm"


def bits_asked(model: Model) -> str:
    """The name in `model.config`, or in `model.transformers` as older files have it, that asks for fewer bits; "" where none does."""
    return next((name for name in BITS if model.transformers.get(name, model.config.get(name))), "")


def quantized_settings(name: str, compute: str, device: str) -> dict[str, Any]:
    """What from_pretrained is given for weights `name` says. `compute`: torch's type of the results. Four bits are normal floats, whose constants are
    quantised too (Dettmers et al. 2023, arXiv:2305.14314). Raises ExecutorError where bitsandbytes is missing."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ExecutorError("MissingDependency", f'{name} needs the library bitsandbytes: pip install "mloc[training]" (on the worker)')
    from transformers import BitsAndBytesConfig

    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": compute}
    config = BitsAndBytesConfig(**(four if name == "load_in_4bit" else {"load_in_8bit": True}))
    return {"quantization_config": config, "device_map": {"": device}}


def refuse_bits(model: Model, why: str) -> None:
    """Raises ExecutorError where fewer bits are asked for, in place of ignoring it."""
    if name := bits_asked(model):
        raise ExecutorError("UnsupportedSetting", f"{name}: {why}")
