"""Answers prompts with transformers, in batches. Rows are the unit: one that fails is recorded and the others go on; one that an earlier
attempt recorded is not done again; a shard does its range of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import decode_spec
from mloc.executors.contract import Context, ExecutorError, Report
from mloc.executors.inference.generation import Answer, answer_batch
from mloc.executors.inference.sampling import check_settings
from mloc.executors.models.model_loading import LoadedModel, load_model
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.prompts import prompt_text
from mloc.executors.rows.row_work import RowWork, do_rows, open_work, record_error, record_together
from mloc.executors.rows.rows import Row

ROWS_PER_BATCH = 16
ROWS_PER_BATCH_ON_DEVICE = 64


def load(task: RunTask, context: Context) -> LoadedModel:
    """The model with its adapters, ready to answer; the engine that stays warm."""
    spec = decode_spec(task.spec)
    check_settings(spec.inference)
    load_rows(spec, context)  # wrong data is said before a model is loaded for it
    loaded = load_model(spec, context)
    loaded.model.eval()
    return loaded


def run(task: RunTask, engine: LoadedModel, context: Context) -> Iterator[Report]:
    """Answer every row that is not recorded yet, then put all of them together in the order of the input."""
    spec = decode_spec(task.spec)
    check_settings(spec.inference)
    work = open_work(task, context, spec, engine.name)
    size = max(1, (ROWS_PER_BATCH_ON_DEVICE if context.devices else ROWS_PER_BATCH) // (spec.inference.n or 1))
    yield from do_rows(work, size, lambda batch: answer_rows(batch, engine, work))


def answer_rows(batch: list[Row], engine: LoadedModel, work: RowWork) -> None:
    """Answer the rows together; where that fails, one by one, so that only the row which cannot be answered has the error."""
    asked: list[tuple[Row, str]] = []
    for row in batch:
        try:
            asked.append((row, prompt_text(row, work.inference, engine.tokenizer)))
        except ExecutorError as error:
            record_error(work, row, error.type, error.message)
    record_together(work, asked, lambda rows: _record(rows, engine, work))


def _record(asked: list[tuple[Row, str]], engine: LoadedModel, work: RowWork) -> None:
    asked = [(row, text) for row, text in asked if row.index not in work.store]
    if not asked or work.context.stopping():
        return
    seed = work.context.seed if work.inference.seed is None else work.inference.seed
    answers = answer_batch([(row.index, text) for row, text in asked], work.inference, engine, seed, work.context.stopping)
    for (row, _), answer in zip(asked, answers or (), strict=bool(answers)):
        if answer.problem:
            record_error(work, row, "AnswerIncomplete", answer.problem)
            continue
        item = _item(row, answer)
        work.store.add(row.index, work.told(row, item) if work.told else item, answer.prompt_tokens, answer.completion_tokens)


def _item(row: Row, answer: Answer) -> dict[str, Any]:
    first = answer.outputs[0]
    item = {"index": row.index, "prompt": row.asked, "output": first["text"], "finish_reason": first["finish_reason"]}
    if len(answer.outputs) > 1 or "logprobs" in first:
        item["outputs"] = answer.outputs
    usage = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    return {**item, "metadata": row.metadata, "usage": usage}
