"""A task's settings in vLLM's words: arguments of its engine, and of one request. Nothing here imports vLLM."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from mloc.core.language.inference_spec import Inference
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.engines import ROOM
from mloc.executors.inference.sampling import DEFAULT_MAX_TOKENS, longest_choice
from mloc.executors.models.model_loading import dtype_asked

CPU_CACHE_BYTES = 1 << 30  # for keys and values, where the task says nothing: vLLM would take nearly all memory
LORA_RANKS = (16, 32, 64, 128, 256, 320, 512)  # that vLLM can be started for
MAX_LORAS = 4  # adapters in use at the same time
STRUCTURED = {"backend": "guidance", "disable_any_whitespace": True}  # llguidance, which the transformers engine follows schemas with too
MAX_MEMORY_SHARE = 0.9  # of a device
MIN_MEMORY_SHARE = 0.05  # too little for any model: vLLM then says itself what is short

_AT_LOADING = {"load_in_4bit": "bitsandbytes", "load_in_8bit": "int8_per_channel_weight_only"}  # of model.config → vLLM's name for it
_GENERATING = {"enable_prefix_caching": True, "max_logprobs": -1, "structured_outputs_config": STRUCTURED}
_POOLING = {"runner": "pooling"}  # caches are as the model takes them

# Fields of Inference that are no sampling parameters, or that are given in another form below.
_OURS = frozenset({
    "engine", "system_prompt", "append_system_prompt", "max_tokens", "do_sample", "temperature", "stop", "seed", "n", "output_kind",
    "truncate_prompt_tokens", "json_schema", "regex", "choice", "structured_outputs", "chat", "on_item_error", "max_item_errors", "logit_bias",
    "repetition_detection", "bad_words", "stop_token_ids", "allowed_token_ids",
})  # fmt: skip
_DEFAULTS_OF_MODEL = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def engine_arguments(
    spec: TaskSpec, context: Context, device_bytes: int = 0, beside_bytes: int = 0, *, pools: bool = False
) -> dict[str, Any]:  # fmt: skip
    """What vLLM's engine is started with, but for the model and its adapters. `device_bytes`: memory of the first device; `beside_bytes`: what
    other models of the task have of it. `pools`: it gives vectors or scores, no text.

    Raises ExecutorError for what cannot be had with the devices that the task was given.
    """
    given = dict(spec.model.vllm)
    arguments = {**(_POOLING if pools else _GENERATING), **_precision(spec, context), **given}
    if context.devices:
        arguments |= _on_devices(spec, context, given, device_bytes, beside_bytes)
    else:
        arguments |= _on_cpu(given)
    return arguments


def _precision(spec: TaskSpec, context: Context) -> dict[str, Any]:
    config = spec.model.config
    chosen = dtype_asked(config)
    made = {"dtype": chosen or "auto"} if chosen or context.devices else {}  # on the CPU by the weights, once they are there
    quantized = next((method for name, method in _AT_LOADING.items() if config.get(name)), None)
    return {**made, "quantization": quantized} if quantized else made


def _on_cpu(given: Mapping[str, Any]) -> dict[str, Any]:
    """Several workers on the same cores, where the task asks for them; each has its part of the cache."""
    if int(given.get("pipeline_parallel_size") or 1) > 1:
        said = "vLLM's engine for the CPU dies of its first request then; use tensor_parallel_size"
        raise ExecutorError("UnsupportedSetting", f"model.vllm.pipeline_parallel_size: {said}")
    if "gpu_memory_utilization" in given or "kv_cache_memory_bytes" in given:
        return {}
    return {"kv_cache_memory_bytes": CPU_CACHE_BYTES // int(given.get("tensor_parallel_size") or 1)}


def _on_devices(spec: TaskSpec, context: Context, given: Mapping[str, Any], device_bytes: int, beside_bytes: int) -> dict[str, Any]:
    """As many devices as the task was given; of the memory what it stated, so that others fit beside it."""
    pipeline, copies = (int(given.get(name) or 1) for name in ("pipeline_parallel_size", "data_parallel_size"))
    tensor = int(given.get("tensor_parallel_size") or max(1, len(context.devices) // (pipeline * copies)))
    wanted = pipeline * tensor * copies
    if wanted != len(context.devices):
        sizes = f"tensor_parallel_size {tensor}, pipeline_parallel_size {pipeline}, data_parallel_size {copies}"
        asked = f"model.vllm asks for {wanted} devices ({sizes})"
        raise ExecutorError("BadSetting", f"{asked}, the task was given {len(context.devices)}: set resources.hardware.gpu.count to {wanted}")
    made: dict[str, Any] = {"tensor_parallel_size": tensor}
    stated = spec.resources.hardware.gpu.memory if spec.resources.hardware.gpu is not None else None
    if device_bytes and (stated or beside_bytes) and "gpu_memory_utilization" not in given and "kv_cache_memory_bytes" not in given:
        share = min(MAX_MEMORY_SHARE, stated / device_bytes) if stated else MAX_MEMORY_SHARE
        made["gpu_memory_utilization"] = round(max(share - beside_bytes / device_bytes, MIN_MEMORY_SHARE), 3)
    if "enable_sleep_mode" not in given:
        made["enable_sleep_mode"] = True
    return made


def identity(model: str, revision: str | None, arguments: Mapping[str, Any], lora_rank: int) -> str:
    """What an engine is made of; `lora_rank` 0: it takes no adapters."""
    facts = msgspec.json.encode([model, revision, dict(arguments)], order="deterministic", enc_hook=str)
    return f"vllm {hashlib.sha256(facts).hexdigest()[:16]}{ROOM}{lora_rank}"


def lora_ranks(needed: int, given: Mapping[str, Any]) -> tuple[int, ...]:
    """Ranks of engines that serve an adapter of rank `needed` (0: none), best first. Raises ExecutorError for a rank that is too large."""
    if given.get("enable_lora") is False:
        if needed:
            raise ExecutorError("BadSetting", "model.vllm.enable_lora is false, and the task has an adapter to put on top: leave it out")
        return (0,)
    if given.get("enable_lora") or given.get("max_lora_rank"):
        most = int(given.get("max_lora_rank") or LORA_RANKS[0])
        if needed > most:
            raise ExecutorError("BadSetting", f"the adapter has rank {needed}, and model.vllm.max_lora_rank is {most}")
        return (most,)
    fitting = tuple(rank for rank in LORA_RANKS if rank >= needed)
    if not fitting:
        raise ExecutorError("BadSetting", f"the adapter has rank {needed}, vLLM takes {LORA_RANKS[-1]} at most: merge it (apply: merge)")
    return fitting if needed else (0, *fitting)


def sampling_arguments(inference: Inference, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of vLLM's SamplingParams. `defaults` are the model's own generation settings, which hold where the task says nothing."""
    given = {name: value for name in Inference.__struct_fields__ if name not in _OURS and (value := getattr(inference, name)) is not None}
    arguments = {name: defaults[name] for name in _DEFAULTS_OF_MODEL if defaults.get(name) is not None}
    arguments |= {**given, "n": inference.n or 1, "max_tokens": max(inference.max_tokens or DEFAULT_MAX_TOKENS, longest_choice(inference))}
    arguments["temperature"] = _temperature(inference, defaults)
    arguments["top_k"] = max(0, int(arguments.get("top_k", 0)))
    if inference.stop is not None:
        arguments["stop"] = [inference.stop] if isinstance(inference.stop, str) else list(inference.stop)
    if inference.logit_bias:
        arguments["logit_bias"] = {int(token): bias for token, bias in inference.logit_bias.items()}
    for name in ("bad_words", "stop_token_ids", "allowed_token_ids"):
        if getattr(inference, name) is not None:
            arguments[name] = list(getattr(inference, name))
    return arguments


def _temperature(inference: Inference, defaults: Mapping[str, Any]) -> float:
    """0 draws none. As with transformers: unless the task says so, drawing is what the model's own settings have."""
    drawn = inference.do_sample
    if drawn is None:
        drawn = bool(defaults.get("do_sample")) if inference.temperature is None else inference.temperature > 0
    if not drawn:
        return 0.0
    value = defaults.get("temperature") if inference.temperature is None else inference.temperature
    return 1.0 if value is None else float(value)


def structured_arguments(inference: Inference) -> dict[str, Any] | None:
    """Arguments of vLLM's StructuredOutputsParams; None for free text."""
    if inference.structured_outputs is not None:
        return dict(inference.structured_outputs)
    if inference.json_schema is not None:
        return {"json": inference.json_schema}
    if inference.regex is not None:
        return {"regex": inference.regex}
    return {"choice": list(inference.choice)} if inference.choice is not None else None


def row_seed(seed: int, row: int) -> int:
    """The seed of a row's request: neither other rows nor the attempt change what it draws."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{row}".encode()).digest()[:4], "big")
