"""What a training trains (all weights, or an adapter on top of them), and what it leaves behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mloc.core.language.model_spec import Adapter
from mloc.core.language.spec import TaskSpec
from mloc.core.needs.parts import is_quantized as is_quantized  # beside `adapter_of` for those who train
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.durable_files import sync_tree
from mloc.executors.models.classifiers import CLASSIFIER
from mloc.executors.models.model_loading import LoadedModel
from mloc.executors.models.weights import FINAL_LORA, FINAL_MODEL
from mloc.executors.training.best_weights import has_weights
from mloc.executors.training.model_card import Trained, write_card

ADAPTER_TYPES = {"lora_sft": "lora", "qlora": "qlora"}  # task types that mean an adapter without saying so


def adapter_of(spec: TaskSpec) -> Adapter | None:
    """The adapter that the task is to train; None: all weights."""
    implied = ADAPTER_TYPES.get(spec.task_type)
    return spec.model.adapter or (Adapter(type=implied) if implied else None)


def prepared(loaded: LoadedModel, wanted: Adapter | None) -> tuple[Any, Any]:
    """(model, LoRA configuration or None). An adapter that is there already is trained on, or merged where all weights are to be trained."""
    is_adapted = hasattr(loaded.model, "peft_config")
    if wanted is None:
        whole = loaded.model.merge_and_unload() if is_adapted else loaded.model
        return whole.requires_grad_(True), None  # the adapter had frozen what lies below it
    if loaded.weights is None:
        raise ExecutorError("BadModel", "an adapter needs weights to go on top of, and a scratch model has none; train it with sft first")
    is_classifier = type(loaded.model).__name__.endswith("ForSequenceClassification")  # then its new head belongs to the adapter
    return loaded.model, None if is_adapted else lora_config(wanted, CLASSIFIER if is_classifier else None)


def keep_whole(model: Any) -> None:
    """Trained weights in half as float32: in half, small steps are lost in the rounding."""
    import torch

    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


def lora_config(adapter: Adapter, task_type: str | None = None) -> Any:
    """PEFT's configuration of an adapter."""
    from peft import LoraConfig

    targets = adapter.target_modules
    return LoraConfig(
        r=adapter.r, lora_alpha=adapter.lora_alpha, lora_dropout=adapter.lora_dropout, bias=adapter.bias, use_rslora=adapter.use_rslora,
        task_type=task_type or adapter.task_type, modules_to_save=list(adapter.modules_to_save) if adapter.modules_to_save else None,
        target_modules="all-linear" if targets is None else targets if isinstance(targets, str) else list(targets),
    )  # fmt: skip


def final_folder(model: Any, context: Context) -> Path:
    """Where the final weights go, by what they are."""
    return context.artifacts / (FINAL_LORA if hasattr(model, "peft_config") else FINAL_MODEL)


def save_final(model: Any, tokenizer: Any, final: Path, checkpoints: Path | None, about: Trained) -> None:
    """Durable final weights (`model` None: they lie there already) with their card; then the checkpoints have served and go, where they are named.
    Where DeepSpeed left the weights in parts they stay."""
    if model is not None:
        model.save_pretrained(str(final))
    tokenizer.save_pretrained(str(final))
    write_card(final, about)
    sync_tree(final)
    if checkpoints is not None and has_weights(final):
        shutil.rmtree(checkpoints, ignore_errors=True)
