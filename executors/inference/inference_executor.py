"""Answers prompts: with vLLM where the task or its device suggests it and the worker has it, with transformers otherwise.

Rows are the unit with either: one that fails is recorded and the others go on; one that an earlier attempt recorded is not done again; a
shard does its range of the rows. The result says which engine answered, and why that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import decode_spec
from mloc.executors.contract import Context, Progress, Report
from mloc.executors.inference.answering_engines import answering_line, check_inference, engine_identities, load_engine, open_answering
from mloc.executors.inference.answers import questions_of, record_answer
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.row_work import do_steps, open_work

identities = engine_identities


def load(task: RunTask, context: Context) -> Any:
    """The model, ready to answer; the engine that stays warm."""
    spec = decode_spec(task.spec)
    check_inference(spec, context)
    load_rows(spec, context)  # wrong data is said before a model is loaded for it
    return load_engine(spec, context)


def run(task: RunTask, engine: Any, context: Context) -> Iterator[Report]:
    """Answer every row that is not recorded yet, then put all of them together in the order of the input."""
    spec = decode_spec(task.spec)
    check_inference(spec, context)
    answering = open_answering(spec, engine, context)
    yield Progress((answering_line(answering),))
    work = replace(open_work(task, context, spec, answering.name), engine=answering.engine, metrics=answering.metrics)
    questions = questions_of(work, answering)
    yield from do_steps(work, answering.steps(work, questions, lambda asked, answer: record_answer(work, asked.row, answer)))
