"""What a row got from a model, whichever engine gave it, and how it stands in the result."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from mloc.executors.rows.row_work import RowWork, record_error
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


def record_answer(work: RowWork, row: Row, answer: Answer) -> None:
    """The answer in the row's place, or its problem. Raises ExecutorError where the task ends with the first error."""
    if answer.problem:
        return record_error(work, row, "AnswerIncomplete", answer.problem)
    first = answer.outputs[0]
    item = {"index": row.index, "prompt": row.asked, "output": first["text"], "finish_reason": first["finish_reason"]}
    if len(answer.outputs) > 1 or "logprobs" in first:
        item["outputs"] = answer.outputs
    usage = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    item = {**item, **answer.more, "metadata": row.metadata, "usage": usage}
    work.store.add(row.index, work.told(row, item) if work.told else item, answer.prompt_tokens, answer.completion_tokens)
