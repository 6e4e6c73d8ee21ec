"""Answers rows with transformers, in batches."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import TaskSpec
from mloc.core.needs.engine_key import is_shared
from mloc.executors.contract import Context, ExecutorError, Report
from mloc.executors.engine_facts import engine_key_of, identity_of
from mloc.executors.inference.answers import record_answer
from mloc.executors.inference.engine_choice import Choice
from mloc.executors.inference.generation import answer_batch
from mloc.executors.inference.sampling import check_settings
from mloc.executors.models.model_loading import LoadedModel, load_model
from mloc.executors.rows.pictures import MAX_PIXELS
from mloc.executors.rows.prompts import Prompt, prompt_text, prompt_with_images
from mloc.executors.rows.row_work import RowWork, do_rows, open_work, record_error, record_together
from mloc.executors.rows.rows import Row

ROWS_PER_BATCH = 16
ROWS_PER_BATCH_ON_DEVICE = 64


def identities(task: RunTask, spec: TaskSpec) -> list[str]:
    """As any task with the same model: what `executors.engine_facts` says. Where vLLM was wished for, the key leaves the adapters out."""
    key = engine_key_of(task)
    own = identity_of(task, key)
    return [f"{own} {msgspec.json.encode(spec.model.adapters).decode()}" if is_shared(key) else own]


def check(spec: TaskSpec) -> None:
    """Raises ExecutorError for settings that this engine cannot follow."""
    check_settings(spec.inference)


def load(spec: TaskSpec, context: Context) -> LoadedModel:
    """The model with its adapters."""
    loaded = load_model(spec, context)
    loaded.model.eval()
    return loaded


def answer_task(task: RunTask, spec: TaskSpec, engine: LoadedModel, context: Context, chosen: Choice) -> Iterator[Report]:
    """Answer the rows that are not recorded yet, a batch at a time."""
    check(spec)
    work = replace(open_work(task, context, spec, engine.name), engine=chosen.as_result())
    size = max(1, (ROWS_PER_BATCH_ON_DEVICE if context.devices else ROWS_PER_BATCH) // (spec.inference.n or 1))
    yield from do_rows(work, size, lambda batch: answer_rows(batch, engine, work))


def answer_rows(batch: list[Row], engine: LoadedModel, work: RowWork) -> None:
    """Answer the rows together; where that fails, one by one, so that only the row which cannot be answered has the error."""
    texts: list[tuple[Row, Prompt]] = []
    pictured: list[tuple[Row, Prompt]] = []
    for row in batch:
        try:
            prompt = _prompt(row, engine, work)
        except ExecutorError as error:
            record_error(work, row, error.type, error.message)
            continue
        if prompt.images and sum(other.pixels for _, other in pictured) + prompt.pixels > MAX_PIXELS:
            record_together(work, pictured, lambda rows: _record(rows, engine, work))
            pictured = []
        (pictured if prompt.images else texts).append((row, prompt))
    for asked in (pictured, texts):
        record_together(work, asked, lambda rows: _record(rows, engine, work))


def _prompt(row: Row, engine: LoadedModel, work: RowWork) -> Prompt:
    if engine.processor is None:
        return Prompt(prompt_text(row, work.inference, engine.tokenizer))
    return prompt_with_images(row, work.inference, engine.processor, work.context.local)


def _record(asked: list[tuple[Row, Prompt]], engine: LoadedModel, work: RowWork) -> None:
    asked = [(row, prompt) for row, prompt in asked if row.index not in work.store]
    if not asked or work.context.stopping():
        return
    seed = work.context.seed if work.inference.seed is None else work.inference.seed
    images = [prompt.images for _, prompt in asked] if asked[0][1].images else []  # rows with images come without others
    answers = answer_batch([(row.index, prompt.text) for row, prompt in asked], work.inference, engine, seed, work.context.stopping, images)
    for (row, _), answer in zip(asked, answers or (), strict=bool(answers)):
        record_answer(work, row, answer)
