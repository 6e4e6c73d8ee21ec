"""The files of a model in the layout of sentence-transformers, read without that library: how its token vectors become one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from mloc.executors.contract import ExecutorError
from mloc.executors.models.weights import Weights

_MODES = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last",
    "mean": "mean", "cls": "cls", "lasttoken": "last",
}  # fmt: skip
_PLAIN = ("Transformer", "Pooling", "Normalize")


class PoolingFiles(Struct, frozen=True):
    """`normalize`: the model itself ends with vectors of length 1. `prompts` by kind of text."""

    pooling: str = "mean"
    normalize: bool = False
    max_seq_length: int | None = None
    prompts: dict[str, str] = {}


def is_sentence_transformer(weights: Weights) -> bool:
    """Whether the model says itself how its token vectors become one."""
    return isinstance(_read(weights, "modules.json"), list)


def pooling_files(weights: Weights, also: tuple[str, ...] = ()) -> PoolingFiles:
    """What the model's own files say; mean pooling where they say nothing. Raises ExecutorError for layers that need the library.

    `also`: layers that whoever asks has himself."""
    modules = _read(weights, "modules.json")
    if not isinstance(modules, list):
        return PoolingFiles()
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if other := next((kind for kind in kinds if kind not in _PLAIN + also), None):
        raise _needs_library(weights, f"has a layer of type {other}")
    pooling = "mean"
    for module, kind in zip(modules, kinds, strict=True):
        if kind == "Pooling":
            pooling = _mode(_read(weights, f"{module['path']}/config.json") or {}, weights)
    settings = _read(weights, "sentence_bert_config.json") or {}
    if "message" in settings.get("modality_config", {}):
        raise _needs_library(weights, "reads texts as chat turns")
    prompts = (_read(weights, "config_sentence_transformers.json") or {}).get("prompts") or {}
    return PoolingFiles(pooling, "Normalize" in kinds, settings.get("max_seq_length"), prompts)


def _mode(config: dict[str, Any], weights: Weights) -> str:
    named = config.get("pooling_mode")
    given = [named] if isinstance(named, str) else [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    if len(given) == 1 and given[0] in _MODES:
        return _MODES[given[0]]
    if not given:
        return "mean"
    raise _needs_library(weights, f"pools by {', '.join(given)}")


def _needs_library(weights: Weights, does: str) -> ExecutorError:
    return ExecutorError("MissingDependency", f'{weights.model} {does}, which needs the library sentence-transformers: pip install "mloc[rag]"')


def _read(weights: Weights, name: str) -> Any:
    """A JSON file of the model; None where it has none."""
    from transformers.utils import cached_file

    try:
        found = cached_file(
            weights.model, name, revision=weights.revision, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )  # fmt: skip
        return msgspec.json.decode(Path(found).read_bytes()) if found else None
    except (OSError, msgspec.MsgspecError):  # not to be had, or not of this layout: what loads the model says what is wrong with it
        return None
