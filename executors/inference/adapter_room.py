"""Whether vLLM's engine of a plain model is started with room for adapters, so that it serves those too when they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_WORDS = 258048  # of a vocabulary on which vLLM puts adapters


def room_is_cheap(arguments: Mapping[str, Any], *, on_device: bool) -> bool:
    """Of an engine with these arguments. On the CPU vLLM compiles no model that has room, and dies of a request for the prompt's logprobs; on a GPU
    it captures the requests without an adapter apart from those with one."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    if not on_device or arguments.get("speculative_config"):
        return False
    try:
        return takes_adapters(AsyncEngineArgs(**arguments).create_model_config())
    except Exception:  # what is wrong with the arguments or the model is said where the engine is started
        return False


def takes_adapters(config: Any) -> bool:
    """Whether vLLM's ModelConfig is of a model that takes adapters at small cost. Those of experts are as many times larger, and slow the plain model
    down; images and quantised weights take them only in part."""
    if config.is_moe or config.is_multimodal_model or config.quantization or config.is_quantized or config.get_vocab_size() > MOST_WORDS:
        return False
    model, _ = config.registry.resolve_model_cls(config.architectures, config)
    return bool(getattr(model, "supports_lora", False))
