"""The key of the engine that a task would find warm: the same text for every task that the same loaded model can serve.

Pure, so that placement (which worker has it warm?) and the host (do I have it?) agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from mloc.core.language.task_types import TRAINING
from mloc.core.needs.engine_wish import POOLING, wish_of

TRAINING_LIBRARIES = "training-libraries"  # training keeps no weights warm, but seconds of imports
_ANSWERING = frozenset({"inference", "agent", "eval"})  # with one model, the same for all of them
_OF_ENCODER = frozenset({"model", "pooling", "device", "query_prompt", "document_prompt"})  # what a loaded one keeps
_SHARED = "/vllm"


class _Hardware(Struct, frozen=True):
    gpu: dict[str, Any] | None = None


class _Resources(Struct, frozen=True):
    hardware: _Hardware = _Hardware()


class _Wanted(Struct):
    model: dict[str, Any] = {}
    enforce_cpu: bool = False
    checkpoint: dict[str, Any] = {}
    retrieval: dict[str, Any] = {}
    inference: dict[str, Any] = {}
    resources: _Resources = _Resources()


_decode = msgspec.json.Decoder(_Wanted).decode


def engine_key(task_type: str, spec: bytes, tasks_of_stages: Mapping[str, str]) -> str:
    """The key for a task's JSON spec, with stages named by the tasks that they are; empty where nothing can stay warm."""
    if task_type in TRAINING:
        return TRAINING_LIBRARIES
    if task_type not in _ANSWERING and task_type not in POOLING and task_type != "rag":
        return ""
    wanted = _decode(spec)
    source = dict(wanted.model.get("source") or {})
    shared = task_type in _ANSWERING and _wishes_vllm(task_type, wanted)
    # vLLM puts an adapter on top for each request: the engine stays the same
    in_weights = [adapter for adapter in wanted.model.get("adapters", ()) if not shared or adapter.get("apply") == "merge"]
    adapters = [_settled(adapter, tasks_of_stages) for adapter in in_weights]
    facts = {**wanted.model, "source": _settled(source, tasks_of_stages), "adapters": adapters, "enforce_cpu": wanted.enforce_cpu}
    if load := wanted.checkpoint.get("load"):
        facts["checkpoint"] = _settled(load, tasks_of_stages)
    if task_type == "rag" or task_type in POOLING:
        facts["loaded_for"] = task_type
        facts["retrieval"] = _of_retrieval(wanted.retrieval, tasks_of_stages)
        if _wishes_vllm(task_type, wanted):
            facts["engine"] = "vllm"
    digest = hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()
    return f"{source.get('identifier') or source.get('type') or 'model'}@{digest[:12]}{_SHARED if shared else ''}"


def is_shared(engine: str) -> bool:
    """Whether the engine of that key serves tasks with other adapters too, where it is vLLM's."""
    return engine.endswith(_SHARED)


def _wishes_vllm(task_type: str, wanted: _Wanted) -> bool:
    gpu = wanted.resources.hardware.gpu
    on_device = gpu is not None and gpu.get("count", 1) != 0
    settings = wanted.model.get("vllm") or {}
    return wish_of(task_type, wanted.inference, settings, enforce_cpu=wanted.enforce_cpu, on_device=on_device).engine == "vllm"


def _of_retrieval(retrieval: dict[str, Any], tasks_of_stages: Mapping[str, str]) -> dict[str, Any]:
    """The models that it names and how they are loaded; documents, stores and searches are another matter."""
    embedding = {name: value for name, value in retrieval.get("embedding", {}).items() if name in _OF_ENCODER}
    source = _settled(dict(retrieval.get("embedding", {}).get("source") or {}), tasks_of_stages)
    return {"embedding": embedding, "source": source, "rerank": retrieval.get("search", {}).get("rerank"), "returns": retrieval.get("returns")}


def _settled(source: dict[str, Any], tasks_of_stages: Mapping[str, str]) -> dict[str, Any]:
    """A source without what is a reference before its stage has run and a path afterwards: the stage's task says the same."""
    task = tasks_of_stages.get(source.get("identifier", "")) or source.get("taskId")
    if task is None:
        return source
    kept = {name: value for name, value in source.items() if name not in ("identifier", "path", "url", "headers", "taskId")}
    return {**kept, "taskId": task}
