"""What of its task type a task uses that is installed apart, as the executors' registry names it: a worker may offer the type without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mloc.core.language.agent_rules import tool_named, tools_of
from mloc.core.language.spec import TaskSpec
from mloc.core.language.task_types import TRAINING
from mloc.core.needs.engine_wish import POOLING, Wish, wish_of

TRACKERS = ("tensorboard", "wandb", "mlflow")
ANSWERED = frozenset(("inference", "agent", "eval", "rag")) | POOLING
"""Task types whose rows an engine answers."""

DEEPSPEED, BITSANDBYTES = "deepspeed", "bitsandbytes"
VLLM, VLLM_ON_GPU = "vllm", "vllm-cuda"  # its two builds, by the extras that bring them
_BITS = ("load_in_4bit", "load_in_8bit")


def parts_of(spec: TaskSpec, *, on_device: bool) -> tuple[str, ...]:
    """The parts that the task cannot do without; `on_device`: it runs on a GPU."""
    if spec.task_type in TRAINING:
        return _of_training(spec)
    found = set[str]()
    if spec.task_type == "eval" and spec.eval is not None and spec.eval.harness == "lm-eval":
        found.add("lm-eval")
    if spec.task_type == "agent":
        found |= {named[0] for one in tools_of(spec.agent) if (named := tool_named(one)) is not None} & {"mcp", "retrieval"}
    if spec.task_type in ANSWERED and not _finds_passages_only(spec):
        found |= _of_engine(spec, on_device=on_device)
    return tuple(sorted(found))


def trackers_named(training: Mapping[str, Any]) -> list[str]:
    """What `training.report_to` names, as it is written, known or not."""
    given = training.get("report_to") or []
    return [name for name in (given if isinstance(given, list | tuple) else [str(given)]) if name != "none"]


def wants_deepspeed(training: Mapping[str, Any]) -> bool:
    """Whether anything asks for it."""
    return bool(training.get("deepspeed") or training.get("auto_deepspeed") or training.get("zero_stage") is not None)


def is_quantized(spec: TaskSpec) -> bool:
    """Whether the weights below the adapter that is trained are kept in four bits (QLoRA: Dettmers et al. 2023, arXiv:2305.14314)."""
    adapter = spec.model.adapter
    return adapter.type == "qlora" if adapter is not None else spec.task_type == "qlora"


def _of_training(spec: TaskSpec) -> tuple[str, ...]:
    found = {name for name in trackers_named(spec.training) if name in TRACKERS}
    if spec.task_type != "ppo" and wants_deepspeed(spec.training):
        found.add(DEEPSPEED)
    if spec.task_type != "qlora" and (is_quantized(spec) or _asks_for_bits(spec)):
        found.add(BITSANDBYTES)
    return tuple(sorted(found))


def _of_engine(spec: TaskSpec, *, on_device: bool) -> set[str]:
    wish = _wish(spec, on_device=on_device)
    found = {VLLM_ON_GPU if on_device else VLLM} if wish.strict and wish.engine == "vllm" else set[str]()
    # eight bits are vLLM's own matter
    asked = _asks_for_bits(spec) if wish.engine == "transformers" else bool(spec.model.config.get("load_in_4bit"))
    return found | {BITSANDBYTES} if asked else found


def _wish(spec: TaskSpec, *, on_device: bool) -> Wish:
    return wish_of(spec.task_type, msgspec.to_builtins(spec.inference), spec.model.vllm, enforce_cpu=spec.enforce_cpu, on_device=on_device)


def _asks_for_bits(spec: TaskSpec) -> bool:
    """Whether transformers is to make the weights smaller as it loads them, which is the work of bitsandbytes."""
    asked = spec.model.transformers.get("quantization_config")
    said = [spec.model.config, spec.model.transformers, asked if isinstance(asked, dict) else {}]
    return any(one.get(name) is True for one in said for name in _BITS)


def _finds_passages_only(spec: TaskSpec) -> bool:
    return spec.task_type == "rag" and spec.retrieval is not None and spec.retrieval.returns == "passages"
