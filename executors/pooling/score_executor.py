"""One number for each row: what a classifier or a reward model gives a text or an answer, or how likely a language model finds it.

With a language model `score` is the mean logarithm of the likelihood of the answer's tokens after its prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from mloc.core.host_frames import RunTask
from mloc.core.language.model_spec import ScratchSource
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.core.language.training_spec import RewardModel
from mloc.executors.contract import Context, ExecutorError, Report
from mloc.executors.models.model_loading import load_model, model_name
from mloc.executors.models.weights import find_weights
from mloc.executors.pooling.encoder import embedding_of
from mloc.executors.pooling.likelihood import likelihoods
from mloc.executors.pooling.model_head import head_of
from mloc.executors.pooling.row_texts import asked_by, plain_text, text_of
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.prompts import prompt_text
from mloc.executors.rows.row_work import RowWork, do_rows, open_work, record_error, record_together
from mloc.executors.rows.rows import Row
from mloc.executors.training.rewards.reward_models import load_scorer

Scores = list[tuple[dict[str, Any], int]]  # an item's members and its tokens, for each row


class ScoringModel(Struct, frozen=True):
    """`prepare` reads what is to be scored off a row, `score` scores some of these together."""

    name: str
    prepare: Callable[[Row, RowWork], Any]
    score: Callable[[list[Any]], Scores]


def load(task: RunTask, context: Context) -> ScoringModel:
    """The model, ready; the engine that stays warm."""
    spec = decode_spec(task.spec)
    load_rows(spec, context)
    is_scratch = isinstance(spec.model.source, ScratchSource) and spec.checkpoint.load is None
    return _language_model(spec, context) if is_scratch or head_of(spec, context) != "score" else _classifier(spec, context)


def run(task: RunTask, engine: ScoringModel, context: Context) -> Iterator[Report]:
    """Score every row that is not recorded yet; then all of them in the order of the input."""
    spec = decode_spec(task.spec)
    work = open_work(task, context, spec, engine.name)
    yield from do_rows(work, embedding_of(spec).batch_size, lambda batch: _score(batch, engine, work))


def _score(batch: list[Row], engine: ScoringModel, work: RowWork) -> None:
    asked: list[tuple[Row, Any]] = []
    for row in batch:
        try:
            asked.append((row, engine.prepare(row, work)))
        except ExecutorError as error:
            record_error(work, row, error.type, error.message)

    def record(rows: list[tuple[Row, Any]]) -> None:
        for (row, _), (members, tokens) in zip(rows, engine.score([one for _, one in rows]), strict=True):
            item = {"index": row.index, "prompt": row.asked or row.columns}
            if row.response is not None:
                item["response"] = row.response
            usage = {"prompt_tokens": tokens, "completion_tokens": 0}
            work.store.add(row.index, {**item, **members, "metadata": row.metadata, "usage": usage}, tokens)

    if asked:
        record_together(work, asked, record)


def _language_model(spec: TaskSpec, context: Context) -> ScoringModel:
    loaded = load_model(spec, context)
    loaded.model.eval()
    has_template = bool(getattr(loaded.tokenizer, "chat_template", None)) and spec.inference.chat != "off"

    def prepare(row: Row, work: RowWork) -> tuple[str, str]:
        if row.response is None:
            return "", text_of(row)
        return prompt_text(row, work.inference, loaded.tokenizer), plain_text(row.response)

    def score(pairs: list[Any]) -> Scores:
        found = likelihoods(pairs, loaded, has_template)
        return [
            ({"score": round(one.a_token, 6), "logprob": round(one.logprob, 5), "tokens": one.answer_tokens}, one.prompt_tokens + one.answer_tokens)
            for one in found
        ]

    return ScoringModel(loaded.name, prepare, score)


def _classifier(spec: TaskSpec, context: Context) -> ScoringModel:
    """As a reward model would score it (`reward_model` of `ppo` and `grpo`)."""
    scorer = load_scorer(RewardModel(source=spec.model.source), context)

    def prepare(row: Row, work: RowWork) -> tuple[Any, str]:
        return ([], text_of(row)) if row.response is None else (asked_by(row), plain_text(row.response))

    def score(pairs: list[Any]) -> Scores:
        return [({"score": round(number, 6)}, 0) for number in scorer([turns for turns, _ in pairs], [answer for _, answer in pairs])]

    return ScoringModel(model_name(find_weights(spec, context), context), prepare, score)
