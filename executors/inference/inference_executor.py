"""Answers prompts: with vLLM where the task or its device suggests it and the worker has it, with transformers otherwise.

Rows are the unit with either: one that fails is recorded and the others go on; one that an earlier attempt recorded is not done again; a
shard does its range of the rows. The result says which engine answered, and why that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import decode_spec
from mloc.executors.contract import Context, Progress, Report
from mloc.executors.inference import transformers_answers, vllm_answers
from mloc.executors.inference.engine_choice import choose_engine
from mloc.executors.inference.vllm_engine import VllmEngine
from mloc.executors.rows.data_loading import load_rows


def identities(task: RunTask, context: Context) -> list[str]:
    """What a warm engine may be made of to serve the task."""
    spec = decode_spec(task.spec)
    if choose_engine(spec, context).engine == "vllm":
        return vllm_answers.identities(spec, context)
    return transformers_answers.identities(task, spec)


def load(task: RunTask, context: Context) -> Any:
    """The model, ready to answer; the engine that stays warm."""
    spec = decode_spec(task.spec)
    chosen = choose_engine(spec, context)
    side = vllm_answers if chosen.engine == "vllm" else transformers_answers
    side.check(spec)
    load_rows(spec, context)  # wrong data is said before a model is loaded for it
    return side.load(spec, context)


def run(task: RunTask, engine: Any, context: Context) -> Iterator[Report]:
    """Answer every row that is not recorded yet, then put all of them together in the order of the input."""
    spec = decode_spec(task.spec)
    chosen = choose_engine(spec, context)
    yield Progress((f"answered by {chosen.engine}: {chosen.why}",))
    if isinstance(engine, VllmEngine):
        yield from vllm_answers.answer_task(task, spec, engine, context, chosen)
    else:
        yield from transformers_answers.answer_task(task, spec, engine, context, chosen)
