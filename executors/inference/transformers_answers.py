"""Answers questions with transformers, in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice

import msgspec

from mloc.core.host_frames import RunTask
from mloc.core.language.inference_spec import Inference
from mloc.core.language.spec import TaskSpec
from mloc.core.needs.engine_key import is_shared
from mloc.executors.contract import Context
from mloc.executors.engine_facts import engine_key_of, identity_of
from mloc.executors.inference.answers import Answer, Answering, Question, Record
from mloc.executors.inference.engine_choice import Choice
from mloc.executors.inference.first_tokens import FirstTokens
from mloc.executors.inference.generation import answer_batch
from mloc.executors.inference.sampling import DEFAULT_MAX_TOKENS, check_settings
from mloc.executors.models.model_loading import LoadedModel, load_model
from mloc.executors.rows.pictures import MAX_PIXELS
from mloc.executors.rows.prompts import Prompt, prompt_text, prompt_with_images
from mloc.executors.rows.row_work import RowWork, record_together
from mloc.executors.rows.rows import Row

ROWS_PER_BATCH = 16
ROWS_PER_BATCH_ON_DEVICE = 64
LOGITS_BYTES = 2 << 30  # of a batch whose logprobs are asked for: generate keeps those of all tokens until its end


def identities(task: RunTask, spec: TaskSpec) -> list[str]:
    """As any task with the same model: what `executors.engine_facts` says. Where vLLM was wished for, the key leaves the adapters out."""
    key = engine_key_of(task)
    own = identity_of(task, key)
    return [f"{own} {msgspec.json.encode(spec.model.adapters).decode()}" if is_shared(key) else own]


def check(inference: Inference) -> None:
    """Raises ExecutorError for settings that this engine cannot follow."""
    check_settings(inference)


def load(spec: TaskSpec, context: Context) -> LoadedModel:
    """The model with its adapters."""
    loaded = load_model(spec, context)
    loaded.model.eval()
    return loaded


def answering(engine: LoadedModel, context: Context, chosen: Choice) -> Answering:
    """Batches of rows, each answered as a whole; where that fails, one by one, so that only the row which cannot be answered has the error."""

    def prompt(row: Row, inference: Inference) -> Prompt:
        if engine.processor is None:
            return Prompt(prompt_text(row, inference, engine.tokenizer))
        return prompt_with_images(row, inference, engine.processor, context.local)

    def ask(index: int, text: str, inference: Inference, seed: int, stopping: Callable[[], bool]) -> Answer | None:
        answers = answer_batch([(index, text)], inference, engine, seed, stopping)
        return answers[0] if answers else None

    metrics: dict[str, float] = {}
    first_tokens = FirstTokens(metrics)

    def steps(work: RowWork, questions: Iterator[Question], record: Record) -> Iterator[None]:
        most = ROWS_PER_BATCH_ON_DEVICE if context.devices else ROWS_PER_BATCH
        size = max(1, min(most, _rows_with_logits(work.inference, engine)) // (work.inference.n or 1))
        while (batch := list(islice(questions, size))) and not context.stopping():
            _answer(batch, engine, work, record, first_tokens)
            yield

    return Answering(engine.name, engine.tokenizer, prompt, ask, steps, chosen.as_result(), metrics)


def _rows_with_logits(inference: Inference, engine: LoadedModel) -> int:
    """So many answers have room for their logits, where they are asked for."""
    if inference.logprobs is None:
        return ROWS_PER_BATCH_ON_DEVICE
    of_answer = 4 * (inference.max_tokens or DEFAULT_MAX_TOKENS) * engine.model.config.get_text_config().vocab_size  # float32
    return int(LOGITS_BYTES // of_answer)


def _answer(batch: list[Question], engine: LoadedModel, work: RowWork, record: Record, first_tokens: FirstTokens) -> None:
    texts: list[tuple[Row, Question]] = []
    pictured: list[tuple[Row, Question]] = []

    def together(asked: list[tuple[Row, Question]]) -> None:
        if asked:
            record_together(work, asked, lambda rows: _record(rows, engine, work, record, first_tokens))

    for one in batch:
        if one.prompt.images and sum(other.prompt.pixels for _, other in pictured) + one.prompt.pixels > MAX_PIXELS:
            together(pictured)
            pictured = []
        (pictured if one.prompt.images else texts).append((one.row, one))
    together(pictured)
    together(texts)


def _record(asked: list[tuple[Row, Question]], engine: LoadedModel, work: RowWork, record: Record, first_tokens: FirstTokens) -> None:
    questions = [question for row, question in asked if row.index not in work.store]
    if not questions or work.context.stopping():
        return
    images = [one.prompt.images for one in questions] if questions[0].prompt.images else []  # rows with images come without others
    prompts = [(one.row.index, one.prompt.text) for one in questions]
    began = time.monotonic()
    answers = answer_batch(
        prompts, work.inference, engine, work.seed, work.context.stopping, images, lambda: first_tokens.add(time.monotonic() - began)
    )
    for one, answer in zip(questions, answers or (), strict=bool(answers)):
        record(one, answer)
