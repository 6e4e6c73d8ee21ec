"""The model of a task as vLLM's engine is started on it: its weights, the adapters on top or merged in, the engine's arguments."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from mloc.core.language.model_spec import ScratchSource
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.inference.vllm_engine import VllmEngine
from mloc.executors.inference.vllm_settings import MAX_LORAS, engine_arguments, identity, lora_ranks
from mloc.executors.models.model_loading import load_model, model_name
from mloc.executors.models.weights import ADAPTER_FILE, Weights, find_adapter, find_weights

_UNSHARED = frozenset({"rag", "score"})  # their engines are found by tasks with the same adapters only


class Served(Struct, frozen=True):
    """The model of a task as vLLM gets it. `made`: it must be written to a folder first (from scratch, or with adapters merged in)."""

    model: str
    name: str
    revision: str | None = None
    trust_remote_code: bool = False
    adapter: Path | None = None
    made: bool = False


def identities(spec: TaskSpec, context: Context) -> list[str]:
    """An engine with room for adapters serves tasks without one too."""
    served, arguments = served_model(spec, context), arguments_of(spec, context)
    return [served_identity(served, arguments, rank) for rank in lora_ranks(_rank(served.adapter), spec.model.vllm)]


def load(spec: TaskSpec, context: Context, beside_bytes: int = 0) -> VllmEngine:
    """Start the engine on the task's model. `beside_bytes`: what other models have of the device's memory."""
    served, arguments = served_model(spec, context), arguments_of(spec, context, beside_bytes)
    ranks = lora_ranks(_rank(served.adapter), spec.model.vllm)
    is_plain = len(ranks) > 1 and ranks[0] == 0 and spec.task_type not in _UNSHARED
    engine = start(served, arguments, context, lambda folder: _write_model(spec, context, folder), ranks[is_plain], only_if_cheap=is_plain)
    engine.kept_as = served_identity(served, arguments_of(spec, context), engine.lora_rank)
    return engine


def start(
    served: Served, arguments: Mapping[str, Any], context: Context, write: Callable[[Path], None], lora_rank: int = 0, *, only_if_cheap: bool = False
) -> VllmEngine:  # fmt: skip
    """`write` makes the model in a folder, where it must be made first. `only_if_cheap`: none of its tasks has an adapter yet."""
    arguments = {**arguments, "trust_remote_code": served.trust_remote_code or bool(arguments.get("trust_remote_code"))}
    if served.revision and "revision" not in arguments:
        arguments["revision"] = served.revision
    with _folder_of(served, write) as model:
        if "dtype" not in arguments:  # on the CPU; weights that are quantized have kernels for their own precision, often not for float32
            arguments["dtype"] = "auto" if arguments.get("quantization") or is_quantized(model, served.revision) else "float32"
        named, on_device = {"model": model, **arguments}, bool(context.devices)
        try:
            return VllmEngine(named, lora_rank, MAX_LORAS, on_device=on_device, only_if_cheap=only_if_cheap)
        except ExecutorError as error:
            if not (only_if_cheap and error.retryable):
                raise
            return VllmEngine(named, 0, MAX_LORAS, on_device=on_device)  # no plain model is to fail of a room that nobody asked for


def is_quantized(model: str, revision: str | None) -> bool:
    """Whether the weights were quantized before they were saved."""
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(model, revision=revision)
    except (OSError, ValueError):
        return False  # the engine itself says what is wrong with it
    return any("quantization_config" in part or "compression_config" in part for part in (config, config.get("text_config") or {}))


def served_identity(served: Served, arguments: Mapping[str, Any], lora_rank: int = 0) -> str:
    """A model that was made again under the same name is another one."""
    return identity(f"{served.model} {_written(served.model)}", served.revision, arguments, lora_rank)


def arguments_of(spec: TaskSpec, context: Context, beside_bytes: int = 0, *, pools: bool = False) -> dict[str, Any]:
    """What vLLM's engine is started with, but for the model and its adapters."""
    if not context.devices:
        return engine_arguments(spec, context, pools=pools)
    from vllm.platforms import current_platform

    return engine_arguments(spec, context, int(current_platform.get_device_total_memory(0)), beside_bytes, pools=pools)


def served_model(spec: TaskSpec, context: Context) -> Served:
    """Raises ExecutorError where the model or an adapter is not there, or where two adapters would have to go on top."""
    source = spec.model.source
    merged = [find_adapter(one.path, one.task_id, one.url, context) for one in spec.model.adapters if one.apply == "merge"]
    on_top = [find_adapter(one.path, one.task_id, one.url, context) for one in spec.model.adapters if one.apply == "runtime"]
    if isinstance(source, ScratchSource) and spec.checkpoint.load is None:
        weights = Weights(f"scratch {msgspec.json.encode(source).decode()}")
        name = source.identifier or "scratch"
    else:
        weights = find_weights(spec, context)
        name = model_name(weights, context)
    if weights.adapter is not None:
        (merged if merged else on_top).append(weights.adapter)
    if len(on_top) > 1:
        raise ExecutorError("UnsupportedSetting", "vLLM puts one adapter on top of a request, and the task names two: merge one (apply: merge)")
    made = bool(merged) or weights.model.startswith("scratch ")
    model = " ".join([weights.model, *(f"+{folder} {_written(str(folder))}" for folder in merged)])
    return Served(model, name, weights.revision, weights.trust_remote_code, on_top[0] if on_top else None, made)


@contextmanager
def _folder_of(served: Served, write: Callable[[Path], None]) -> Iterator[str]:
    if not served.made:
        yield served.model
        return
    folder = Path(tempfile.mkdtemp(prefix="mloc-model-"))
    try:
        write(folder)
        yield str(folder)
    finally:  # the engine's processes have read it
        shutil.rmtree(folder, ignore_errors=True)


def _write_model(spec: TaskSpec, context: Context, folder: Path) -> None:
    """Made with transformers in main memory: from scratch, or with the adapters that are to be merged."""
    merged = tuple(one for one in spec.model.adapters if one.apply == "merge")
    settings = {"dtype": "auto", **spec.model.transformers}
    made = load_model(replace(spec, model=replace(spec.model, adapters=merged, transformers=settings)), replace(context, devices=()))
    made.model.save_pretrained(folder)
    (made.processor or made.tokenizer).save_pretrained(folder)


def _rank(adapter: Path | None) -> int:
    if adapter is None:
        return 0
    config = msgspec.json.decode((adapter / ADAPTER_FILE).read_bytes())
    return max([int(config.get("r", 8)), *map(int, (config.get("rank_pattern") or {}).values())])


def merged_served(spec: TaskSpec, context: Context) -> Served:
    """The same with an adapter that would go on top merged in."""
    served = served_model(spec, context)
    if served.adapter is None:
        return served
    return replace(served, model=f"{served.model} +{served.adapter} {_written(str(served.adapter))}", adapter=None, made=True)


def _written(model: str) -> int:
    """When a folder's files were last written: a model that was made again under the same name is another one."""
    folder = Path(model)
    try:
        return max((file.stat().st_mtime_ns for file in folder.iterdir()), default=0) if folder.is_dir() else 0
    except OSError:
        return 0
