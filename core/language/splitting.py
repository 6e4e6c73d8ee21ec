"""Which tasks can be split by rows. What cannot runs as one, and its author is told why."""

from __future__ import annotations

from mloc.core.language.spec import TaskSpec
from mloc.core.language.task_types import TRAINING


def why_as_one(spec: TaskSpec) -> str:
    """Why `parallel` does not split the task; nothing where it does."""
    if spec.task_type in TRAINING:
        return "a training learns from all rows together; it uses several devices with resources.hardware.gpu.count or training.nproc_per_node"
    return _of_rag(spec) if spec.task_type == "rag" else _of_eval(spec) if spec.task_type == "eval" else ""


def _of_rag(spec: TaskSpec) -> str:
    if spec.data is None and not any(one.path[:1] == ("data",) for one in spec.deferred):
        return "there are no rows, the task only makes an index"
    kept = spec.retrieval
    if kept is not None and kept.path is not None and (kept.store == "qdrant" or kept.documents is not None or kept.index is not None):
        return "the store in retrieval.path takes one task at a time; name a server, or leave the path out"
    return ""


def _of_eval(spec: TaskSpec) -> str:
    asked = spec.eval
    if _is_deferred(spec, ("eval",), ("eval", "harness")) or (asked is not None and asked.harness == "lm-eval"):
        return "the tasks of lm-eval are no rows that could be shared out"
    if _is_deferred(spec, ("eval", "gate")) or (asked is not None and asked.gate is not None):
        return "eval.gate is held against all rows together, and a shard sees only its own"
    return ""


def _is_deferred(spec: TaskSpec, *places: tuple[str, ...]) -> bool:
    return any(one.path in places for one in spec.deferred)
