"""Which engine is to answer a task's rows, as far as its spec says. Pure, so that placement and the host agree on what can stay warm.

Whether the wish can be had (is vLLM installed there? does it take the model?) is for the host to see.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from mloc.core.language.inference_spec import names_for_vllm

POOLING = frozenset({"embed", "score", "rerank"})
"""Task types that give vectors or numbers, no text."""

_VLLM_ONLY = names_for_vllm()


class Wish(Struct, frozen=True):
    """`strict`: asked for by name, so that nothing else will do. `asked`: the task says something that means it."""

    engine: Literal["vllm", "transformers"]
    why: str
    strict: bool = False
    asked: bool = True


def wish_of(task_type: str, inference: Mapping[str, Any], vllm_settings: Mapping[str, Any], *, enforce_cpu: bool, on_device: bool) -> Wish:
    """The wish of a spec, whose sections `inference` and `model.vllm` are given as mappings without what is unset."""
    asked = inference.get("engine", "auto")
    if enforce_cpu:
        return Wish("transformers", "enforce_cpu is set", strict=asked == "transformers")
    if asked in ("vllm", "transformers"):
        return Wish(asked, f"inference.engine is {asked}", strict=True)
    if vllm_settings:
        return Wish("vllm", "the task has settings in model.vllm")
    if only := next((name for name in _VLLM_ONLY if inference.get(name) is not None), None):
        return Wish("vllm", f"only vLLM follows inference.{only}")
    if task_type in POOLING:
        return Wish("transformers", "vLLM gives vectors and scores only to tasks that ask for it", asked=False)
    if on_device:
        return Wish("vllm", "the task runs on a GPU", asked=False)
    return Wish("transformers", "without a GPU vLLM answers only tasks that ask for it", asked=False)
