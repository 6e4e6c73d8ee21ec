"""What vLLM's engine gives with the runner `pooling`: vectors and logits in place of text. Lengths and marks are made of them by the same rules
as with transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context
from mloc.executors.engine_facts import engine_key_of, identity_of
from mloc.executors.inference.engine_choice import choose_engine
from mloc.executors.inference.vllm_engine import VllmEngine
from mloc.executors.inference.vllm_model import arguments_of, merged_served, served_identity, start
from mloc.executors.models.classifiers import scoring_weights, write_classifier
from mloc.executors.models.damage import unreadable
from mloc.executors.models.model_loading import not_loaded


def by_vllm(spec: TaskSpec, context: Context) -> bool:
    """Whether vLLM is to compute it. Raises ExecutorError where the task asks for it by name and cannot have it here."""
    return choose_engine(spec, context).engine == "vllm"


def plain_identities(task: RunTask) -> list[str]:
    """Of an engine that is not vLLM's: its key says all."""
    return [identity_of(task, engine_key_of(task))]


def pooling_identities(spec: TaskSpec, context: Context, pooler: dict[str, Any]) -> list[str]:
    """`pooler`: arguments of vLLM's PoolerConfig; empty: as the model has it."""
    return [served_identity(merged_served(spec, context), _arguments(spec, context, pooler))]


def start_pooling(spec: TaskSpec, context: Context, pooler: dict[str, Any], write: Callable[[Path], None]) -> VllmEngine:
    """`write` makes the model in a folder, where it must be made first. Raises ExecutorError."""
    return start(merged_served(spec, context), _arguments(spec, context, pooler), context, write)


def write_whole_classifier(spec: TaskSpec, context: Context, folder: Path) -> None:
    """Of a classifier that is an adapter: vLLM puts none with a head of its own on top. Raises ExecutorError."""
    weights = scoring_weights(spec, context)
    try:
        write_classifier(weights, {"dtype": "auto"}, folder)
    except unreadable() as error:
        raise not_loaded(weights, error) from error


def vectors(engine: VllmEngine, texts: Sequence[list[int]]) -> Any:
    """float32 [texts, dimension], of any length."""
    import torch

    return torch.stack(_pooled(engine, texts, "embed", [None] * len(texts))).float().numpy()


def logits(engine: VllmEngine, texts: Sequence[list[int]], seconds: Sequence[int | None] = ()) -> Any:
    """float32 [texts, labels] of a classifier. `seconds`: where the second of two texts begins, for models that are told which is which."""
    import torch

    return torch.stack(_pooled(engine, texts, "classify", seconds or [None] * len(texts))).float()


def _pooled(engine: VllmEngine, texts: Sequence[list[int]], kind: str, seconds: Sequence[int | None]) -> list[Any]:
    from vllm import PoolingParams

    begun = []
    for tokens, second in zip(texts, seconds, strict=True):
        more = {} if second is None else {"extra_kwargs": {"compressed_token_type_ids": second}}
        begun.append(engine.pool(tokens, PoolingParams(task=kind, use_activation=False, **more)))
    return [output.outputs.data for output in engine.results(begun) or ()]


def _arguments(spec: TaskSpec, context: Context, pooler: dict[str, Any]) -> dict[str, Any]:
    return {**({"pooler_config": pooler} if pooler else {}), **arguments_of(spec, context, pools=True)}
