"""Classifiers with transformers: whole ones, and those that are an adapter with a head of its own on top of a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.models.weights import ADAPTER_FILE, Weights, find_adapter, find_weights

CLASSIFIER = "SEQ_CLS"  # peft's name of the task
_HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
_WEIGHTS_FILE = "adapter_model.safetensors"


def is_classifier_adapter(folder: Path) -> bool:
    """Whether an adapter was trained to classify."""
    return bool(msgspec.json.decode((folder / ADAPTER_FILE).read_bytes()).get("task_type") == CLASSIFIER)


def scoring_weights(spec: TaskSpec, context: Context) -> Weights:
    """What the task names, with its `model.adapters` on top where that is a classifier's. Raises ExecutorError."""
    weights = find_weights(spec, context)
    named = [find_adapter(one.path, one.task_id, one.url, context) for one in spec.model.adapters]
    if not any(is_classifier_adapter(folder) for folder in named):
        return weights
    if len(named) > 1 or weights.adapter is not None:
        said = "a classifier's adapter goes on top of the model that it was trained on, and of nothing else: name it alone, or as model.source"
        raise ExecutorError("UnsupportedSetting", f"model.adapters: {said}")
    return replace(weights, adapter=named[0])


def load_classifier_of(weights: Weights, settings: dict[str, Any]) -> tuple[Any, Any]:
    """(model, tokenizer), in main memory. `settings`: of from_pretrained. Raises OSError and ValueError as transformers does, ExecutorError."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    adapter, trust = weights.adapter, weights.trust_remote_code
    has_own = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(
        str(adapter) if has_own else weights.model, revision=None if has_own else weights.revision, trust_remote_code=trust
    )
    settings = {**settings, **({} if adapter is None else _labels_of(adapter))}
    model = AutoModelForSequenceClassification.from_pretrained(weights.model, revision=weights.revision, **settings, trust_remote_code=trust)
    if adapter is not None:
        model = _with_head(model, adapter)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def write_classifier(weights: Weights, settings: dict[str, Any], folder: Path) -> None:
    """As one whole, for engines that put no head on top. Raises as `load_classifier_of`."""
    model, tokenizer = load_classifier_of(weights, settings)
    whole = model.merge_and_unload() if hasattr(model, "peft_config") else model
    whole.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _with_head(model: Any, adapter: Path) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ExecutorError("MissingDependency", 'adapters need the library peft: pip install "mloc[training]"') from error
    try:
        return PeftModel.from_pretrained(model, str(adapter))
    except RuntimeError as error:
        raise ExecutorError("ModelNotLoaded", f"the adapter in {adapter} does not fit the model: {str(error)[:400]}") from error


def _labels_of(adapter: Path) -> dict[str, int]:
    """How many the adapter's own head has; none where it uses that of its base."""
    if not (adapter / _WEIGHTS_FILE).is_file():
        return {}
    from safetensors import safe_open

    with safe_open(adapter / _WEIGHTS_FILE, "pt") as opened:
        found = next((name for name in opened.keys() if name.endswith(_HEADS)), None)  # noqa: SIM118
        return {} if found is None else {"num_labels": int(opened.get_slice(found).get_shape()[0])}
