"""What a task's rows are asked and what a model answers, in the same words whichever engine it is, and how an answer stands in the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from mloc.core.language.inference_spec import Inference
from mloc.executors.contract import ExecutorError
from mloc.executors.rows.prompts import Prompt
from mloc.executors.rows.row_work import RowWork, record_error, rows_to_answer
from mloc.executors.rows.rows import Row

INCOMPLETE = "the answer was not complete after inference.max_tokens; raise it"


class Answer(Struct, frozen=True):
    """What a prompt got: `outputs` has {text, finish_reason, logprobs} for each of the `n` that were asked for.

    `problem`: why it is no answer. `more`: what else the item holds."""

    outputs: list[dict[str, Any]]
    prompt_tokens: int
    completion_tokens: int
    problem: str = ""
    more: dict[str, Any] = {}


class Question(Struct, frozen=True):
    """A row and the prompt that it becomes. `beside`: what the one who records its answer needs."""

    row: Row
    prompt: Prompt
    beside: Any = None


Record = Callable[[Question, Answer], None]


class Answering(Struct, frozen=True):
    """A task's engine.

    `prompt(row, inference)` writes what a row asks; raises ExecutorError for one that asks nothing, or what the engine does not take.
    `ask(index, prompt, inference, seed, stopping)` waits for one answer; None where `stopping` came true before. What it draws depends on
    `seed` and `index` alone. `steps(work, questions, record)` has all of them answered, as many at a time as the engine takes, and each recorded
    as its answer comes, until the attempt is asked to stop; a question that cannot be answered is recorded as an error.
    """

    name: str  # what results call the model
    tokenizer: Any
    prompt: Callable[[Row, Inference], Prompt]
    ask: Callable[[int, str, Inference, int, Callable[[], bool]], Answer | None]
    steps: Callable[[RowWork, Iterator[Question], Record], Iterator[None]]
    engine: dict[str, Any]  # which one, and why; stands in the result
    metrics: dict[str, float]  # what it measures goes in here


def questions_of(work: RowWork, answering: Answering) -> Iterator[Question]:
    """The rows that no attempt recorded, as they are asked."""
    for row in rows_to_answer(work):
        if work.context.stopping():
            return
        try:
            prompt = answering.prompt(row, work.inference)
        except ExecutorError as error:
            record_error(work, row, error.type, error.message)
            continue
        yield Question(row, prompt)


def record_answer(work: RowWork, row: Row, answer: Answer, judged: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> None:
    """The answer in the row's place, as `judged` makes it of the item, or its problem. Raises ExecutorError where the task ends with the first
    error, and for what trying again can help."""
    if answer.problem:
        return record_error(work, row, "AnswerIncomplete", answer.problem)
    first = answer.outputs[0]
    item = {"index": row.index, "prompt": row.asked, "output": first["text"], "finish_reason": first["finish_reason"]}
    if len(answer.outputs) > 1 or "logprobs" in first:
        item["outputs"] = answer.outputs
    usage = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    item = {**item, **answer.more, "metadata": row.metadata, "usage": usage}
    try:
        item = judged(item) if judged is not None else item
    except Exception as error:  # whatever a judge raises belongs to the row
        if isinstance(error, ExecutorError) and error.retryable:
            raise
        return record_error(work, row, error.type if isinstance(error, ExecutorError) else type(error).__name__, str(error))
    work.store.add(row.index, item, answer.prompt_tokens, answer.completion_tokens)
