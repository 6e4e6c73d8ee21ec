"""Weights and tokenizer from `model`, on the device that the attempt may use."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from mloc.core.language.model_spec import ScratchSource
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.models.damage import damaged_file, unreadable
from mloc.executors.models.hub import hub_trouble
from mloc.executors.models.image_models import image_processor
from mloc.executors.models.quantization import BITS, bits_asked, quantized_settings, refuse_bits
from mloc.executors.models.scratch_model import make_scratch_model
from mloc.executors.models.weights import Weights, find_adapter, find_weights
from mloc.executors.ranks import own_devices

# What `model.transformers` may hold; everything else would only fail deep inside the library, after the weights were read.
ACCEPTED = (
    "device_map", "dtype", "torch_dtype", "low_cpu_mem_usage", "trust_remote_code", "attn_implementation", "max_memory", "offload_folder",
    "offload_buffers", "use_safetensors", "variant", "subfolder", "cache_dir", "token", "local_files_only", "tp_plan", "revision",
    "force_download", "code_revision", "quantization_config", "key_mapping", "experts_implementation", "use_cache",
)  # fmt: skip


class LoadedModel(Struct, frozen=True):
    """A model in memory. `name` is what results call it."""

    model: Any
    tokenizer: Any
    name: str
    weights: Weights | None  # None: made from scratch
    made: dict[str, Any] = {}  # what is made of it once, by what it is
    processor: Any = None  # of a model that takes images; its tokenizer is the same


def load_model(
    spec: TaskSpec, context: Context, task_texts: Iterable[str] = (), *, trainable: bool = False, quantized: bool = False, dtype: str | None = None,
    placed: bool = True,
) -> LoadedModel:  # fmt: skip
    """Load what `model.source` names, with its adapters. Raises ExecutorError.

    `task_texts` train the tokenizer of a scratch model. `quantized`: weights of four bits, as QLoRA trains an adapter on. `dtype`: torch's
    type of the weights, unless `model.transformers` names one; None: as `model.config` says, or what the device does best. `placed`: on the
    attempt's device; else in main memory.
    """
    settings = pretrained_settings(spec, context, dtype) | _at_loading(spec, context, dtype, trainable=trainable, quantized=quantized)
    if isinstance(spec.model.source, ScratchSource) and spec.checkpoint.load is None:
        refuse_bits(spec.model, "a model that is made from scratch has no weights to quantise")
        if spec.model.adapters:
            said = "model.adapters need the weights that they were trained on, and a scratch model has none of them: name those as model.source"
            raise ExecutorError("BadModel", said)
        text = spec.model.source.tokenizer_text
        source = replace(spec.model.source, tokenizer_text=context.local(text)) if isinstance(text, str) else spec.model.source
        model, tokenizer = make_scratch_model(source, task_texts)
        return LoadedModel(_placed(model, context, settings) if placed else model, tokenizer, spec.model.source.identifier or "scratch", None)
    weights = find_weights(spec, context)
    model, tokenizer, processor = _from_pretrained(weights, settings, trainable=trainable)
    if (named := context.as_named(weights.model)) != weights.model:
        model.name_or_path = model.config.name_or_path = named  # an adapter that is trained on it keeps this name
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if weights.adapter is not None:
        model = _with_adapter(model, weights.adapter, "default", trainable)
    model = _with_served_adapters(model, spec, context)
    model = _placed(model, context, settings) if placed else model
    return LoadedModel(model, tokenizer, model_name(weights, context), weights, processor=processor)


def as_classifier(loaded: LoadedModel) -> LoadedModel:
    """The same model with a head that gives one number for a text, in place of the one that gives the next token."""
    whole = loaded.model.merge_and_unload() if hasattr(loaded.model, "peft_config") else loaded.model
    return LoadedModel(_with_score(whole, loaded.tokenizer), loaded.tokenizer, loaded.name, loaded.weights)


def _with_score(model: Any, tokenizer: Any) -> Any:
    from transformers import AutoModelForSequenceClassification
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():  # each process has a part of the weights: none would be copied, without a word
        raise ExecutorError("UnsupportedSetting", "training.zero_stage 3 cannot make a reward model of a language model; use stage 2, or fsdp")
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    config.pad_token_id = tokenizer.pad_token_id
    classifier = AutoModelForSequenceClassification.from_config(config, dtype=model.dtype)
    classifier.base_model.load_state_dict(model.base_model.state_dict())
    return classifier.to(model.device)


def device_of(context: Context) -> str:
    """The torch device of an attempt."""
    return f"cuda:{own_devices(context)[0]}" if context.devices else "cpu"


def pretrained_settings(spec: TaskSpec, context: Context, dtype: str | None = None) -> dict[str, Any]:
    """`model.transformers` and `model.config` as from_pretrained takes them. Raises ExecutorError for a name that it does not have."""
    given = {name: value for name, value in spec.model.transformers.items() if name not in BITS}
    for name in given:
        if name not in ACCEPTED:
            near = difflib.get_close_matches(name, ACCEPTED, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(ACCEPTED)}"
            raise ExecutorError("UnknownSetting", f"model.transformers.{name} is no setting of transformers' from_pretrained; {hint}")
    named = given.pop("torch_dtype", None) or given.pop("dtype", None)
    return {**given, "dtype": named or dtype or dtype_asked(spec.model.config) or ("bfloat16" if context.devices else "float32")}


def dtype_asked(config: Mapping[str, Any]) -> str | None:
    """torch's type that `model.config` names, whichever engine loads the weights; None: what suits the engine and its device."""
    half = "bfloat16" if config.get("bf16") else "float16" if config.get("fp16") else None
    return config.get("dtype") or half or ("float32" if config.get("bf16") is False else None)


def _at_loading(spec: TaskSpec, context: Context, dtype: str | None, *, trainable: bool, quantized: bool) -> dict[str, Any]:
    """What `model.config` asks for beside the precision; `model.transformers` goes before it."""
    own = {name: spec.model.transformers[name] for name in ("quantization_config", "device_map") if name in spec.model.transformers}
    asked = "load_in_4bit" if quantized else bits_asked(spec.model)
    if asked and trainable and not quantized:
        refuse_bits(spec.model, "such weights cannot be trained; train an adapter on top of four bits (model.adapter.type: qlora)")
    if asked:
        compute = dtype or dtype_asked(spec.model.config) or ("bfloat16" if context.devices else "float32")
        return {**quantized_settings(asked, compute, device_of(context)), **own}
    spread = spec.model.config.get("device_map_auto") and context.devices and not trainable
    return {"device_map": "auto", **own} if spread else {}


def _from_pretrained(weights: Weights, settings: dict[str, Any], *, trainable: bool) -> tuple[Any, Any, Any]:
    """(model, tokenizer, processor of images or None). Training is of text, with the model as it is for text alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trust = weights.trust_remote_code or bool(settings.get("trust_remote_code"))
    settings = {**settings, "revision": weights.revision, "trust_remote_code": trust}
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            weights.adapter if weights.adapter and (weights.adapter / "tokenizer_config.json").is_file() else weights.model,
            revision=weights.revision, trust_remote_code=trust, padding_side="left",
        )  # fmt: skip
        if not trainable and (processor := image_processor(weights, tokenizer, trust=trust)) is not None:
            from transformers import AutoModelForImageTextToText

            return AutoModelForImageTextToText.from_pretrained(weights.model, **settings), tokenizer, processor
        return AutoModelForCausalLM.from_pretrained(weights.model, **settings), tokenizer, None
    except unreadable() as error:
        raise not_loaded(weights, error) from error


def not_loaded(weights: Weights, error: Exception) -> ExecutorError:
    """What a person is told when a library could not load a model."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if (damaged := damaged_file(weights.model)) is not None:
        return ExecutorError("ModelNotLoaded", f"the weights in {damaged} are damaged: {reason}; copy or fetch them again")
    if Path(weights.model).is_dir():
        return ExecutorError("ModelNotLoaded", f"the model in {weights.model} could not be loaded: {reason}")
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        why = "is not in the local cache, and HF_HUB_OFFLINE is set on the worker"
        return ExecutorError("ModelNotFound", f"the model {weights.model!r} {why}; fetch it there first, or name a folder with type local")
    if (trouble := hub_trouble(weights.model, error)) is not None:
        return trouble
    missing = "not a valid model identifier" in str(error) or "gated" in str(error) or not isinstance(error, OSError | ValueError)
    return ExecutorError("ModelNotFound", f"the model {weights.model!r} could not be had from the hub: {reason}", retryable=not missing)


def _with_adapter(model: Any, folder: Path, name: str, trainable: bool) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ExecutorError("MissingDependency", 'adapters need the library peft: pip install "mloc[training]"') from error
    try:
        if not hasattr(model, "peft_config"):
            return PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=trainable)
        model.load_adapter(str(folder), adapter_name=name)
        return model
    except (*unreadable(), RuntimeError) as error:
        raise ExecutorError("ModelNotLoaded", f"the adapter in {folder} does not fit the model: {str(error)[:400]}") from error


def _with_served_adapters(model: Any, spec: TaskSpec, context: Context) -> Any:
    """`model.adapters`: merged into the weights, or active on top of them, all together."""
    named = [(served.name or f"adapter{number}", served) for number, served in enumerate(spec.model.adapters)]
    for when in ("merge", "runtime"):  # what is merged is no longer there to be told apart
        chosen = [(name, served) for name, served in named if served.apply == when]
        for name, served in chosen:
            model = _with_adapter(model, find_adapter(served.path, served.task_id, served.url, context), name, trainable=False)
        if chosen and when == "merge":
            model = model.merge_and_unload(adapter_names=list(model.peft_config))
        elif chosen:
            model.base_model.set_adapter(list(model.peft_config))
    return model


def _placed(model: Any, context: Context, settings: dict[str, Any]) -> Any:
    return model if settings.get("device_map") else model.to(device_of(context))


def model_name(weights: Weights, context: Context) -> str:
    """A model made by a stage is called after that stage's task; any other by its folder or repository."""
    shown = context.as_named(str(weights.adapter or weights.model))
    for given in context.inputs.values():
        if shown.startswith(str(given["folder"])):
            return f"{given['task_id']}/{Path(shown).name}"
    return shown
