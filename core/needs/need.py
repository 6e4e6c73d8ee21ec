"""From a task's spec to what placement must find on a worker."""

from __future__ import annotations

import re

from mloc.core.events import Need, Parallel
from mloc.core.language.data_spec import ListData, MessagesData, PreferencesData
from mloc.core.language.echo_spec import is_light
from mloc.core.language.model_spec import ScratchSource, StageSource
from mloc.core.language.spec import TaskSpec
from mloc.core.language.splitting import why_as_one
from mloc.core.needs.parts import parts_of

MOST_MODEL_CHARACTERS = 200
_CREDENTIALS = re.compile(r"//[^/@]*@")


def need_of(spec: TaskSpec, engine: str = "") -> Need:
    """What the task needs; `engine` is the key of the engine that it would find warm (`engine_key`)."""
    hardware = spec.resources.hardware
    gpu = None if spec.enforce_cpu else hardware.gpu
    gpus = gpu.count if gpu is not None else 0
    return Need(
        task_type=spec.task_type,
        light=not gpus and is_light(spec),
        gpus=gpus,
        gpu_type=gpu.type if gpu is not None and gpus else "any",
        gpu_memory=(gpu.memory or 0) if gpu is not None and gpus else 0,
        cpu=hardware.cpu or 0.0,
        memory=hardware.memory or 0,
        tags=tuple(sorted(set(spec.resources.tags))),
        engine=engine,
        parts=parts_of(spec, on_device=bool(gpus)),
    )


def kind_of(need: Need) -> str:
    """What sort of work it is, for a person: `type eval with lm-eval`."""
    return f"type {need.task_type}" + (f" with {' and '.join(need.parts)}" if need.parts else "")


def model_of(spec: TaskSpec) -> str:
    """The name that statistics call the task's model by: "stage" for one that an earlier stage makes, "" for none. A URL is without its secrets."""
    source = spec.model.source
    match source:
        case None:
            return ""
        case StageSource():
            return "stage"
        case ScratchSource():
            return source.identifier or "scratch"
    if any(deferred.path[:3] == ("model", "source", "identifier") for deferred in spec.deferred):
        return "stage"
    return _CREDENTIALS.sub("//", source.identifier.partition("?")[0])[:MOST_MODEL_CHARACTERS]


def parallel_of(spec: TaskSpec) -> Parallel | None:
    """How the task may be split; None where it runs as one."""
    asked = spec.parallel
    if asked is None or not asked.enabled or why_as_one(spec):
        return None
    shards = 0 if asked.shards == "auto" else asked.shards
    return Parallel(shards=shards, max_shards=asked.max_shards or max(64, shards), min_items_per_shard=asked.min_items_per_shard)


def inline_items(spec: TaskSpec) -> int:
    """Number of rows that the file itself holds; 0 where they are elsewhere, or known only when an earlier stage has run."""
    if any(deferred.path and deferred.path[0] == "data" for deferred in spec.deferred):
        return 0
    match spec.data:
        case ListData(items=items):
            return len(items)
        case PreferencesData(preferences=preferences):
            return len(preferences)
        case MessagesData(messages=messages):
            return _conversations(messages)
        case _:
            return 0


def _conversations(messages: tuple[object, ...]) -> int:
    """One conversation is a list of turns, several are a list of lists."""
    return len(messages) if messages and all(isinstance(turn, list | tuple) for turn in messages) else min(len(messages), 1)
