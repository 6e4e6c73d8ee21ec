"""The engine that answers a task's questions, whatever its type asks: which one it is, what it is made of, how it is loaded and asked."""

from __future__ import annotations

from typing import Any

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.executors.contract import Context
from mloc.executors.inference import transformers_answers, vllm_answers, vllm_model
from mloc.executors.inference.answers import Answering
from mloc.executors.inference.engine_choice import choose_engine
from mloc.executors.inference.vllm_engine import VllmEngine


def engine_identities(task: RunTask, context: Context) -> list[str]:
    """What a warm engine may be made of to serve the task."""
    spec = decode_spec(task.spec)
    if choose_engine(spec, context).engine == "vllm":
        return vllm_model.identities(spec, context)
    return transformers_answers.identities(task, spec)


def check_inference(spec: TaskSpec, context: Context) -> None:
    """Raises ExecutorError for settings that the task's engine cannot follow."""
    side = vllm_answers if choose_engine(spec, context).engine == "vllm" else transformers_answers
    side.check(spec.inference)


def load_engine(spec: TaskSpec, context: Context, beside_bytes: int = 0) -> Any:
    """The model, ready to answer. `beside_bytes`: what the task's other models have of the device's memory. Raises ExecutorError."""
    if choose_engine(spec, context).engine == "vllm":
        return vllm_model.load(spec, context, beside_bytes)
    return transformers_answers.load(spec, context)


def open_answering(spec: TaskSpec, engine: Any, context: Context) -> Answering:
    """The warm engine, for this task. Raises ExecutorError."""
    chosen = choose_engine(spec, context)
    if isinstance(engine, VllmEngine):
        return vllm_answers.answering(spec, engine, context, chosen)
    return transformers_answers.answering(engine, context, chosen)


def answering_line(answering: Answering) -> str:
    """What the log says of it."""
    return f"answered by {answering.engine['name']}: {answering.engine['why']}"
