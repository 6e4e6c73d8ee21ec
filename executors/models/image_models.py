"""Models that take images beside text."""

from __future__ import annotations

from typing import Any

from mloc.executors.contract import ExecutorError
from mloc.executors.models.weights import Weights


def image_processor(weights: Weights, tokenizer: Any, *, trust: bool) -> Any | None:
    """What makes a model's inputs of text and images, with `tokenizer` in it; None for a model of text alone.

    Raises OSError and ValueError as transformers does, and ExecutorError where a library that the model's images need is missing."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoProcessor

    try:
        kind = type(AutoConfig.from_pretrained(weights.model, revision=weights.revision, trust_remote_code=trust))
    except (OSError, ValueError):  # the model is loaded with more settings than these, and says what is wrong
        return None
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return None
    try:
        processor = AutoProcessor.from_pretrained(weights.model, revision=weights.revision, trust_remote_code=trust)
    except (OSError, ValueError, ImportError) as error:
        if kind in MODEL_FOR_CAUSAL_LM_MAPPING:  # it serves for text, as before its images were thought of
            return None
        if isinstance(error, ImportError):
            said = f"the model {weights.model} needs a library for its images that the worker lacks (pip install torchvision?): {_reason(error)}"
            raise ExecutorError("MissingDependency", said) from error
        raise
    if getattr(processor, "image_processor", None) is None:
        return None
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    processor.tokenizer, processor.chat_template, tokenizer.chat_template = tokenizer, template, template
    return processor


def _reason(error: Exception) -> str:
    """The first sentence: what follows is how the library's authors install things."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first.partition(". ")[0].rstrip(".")
