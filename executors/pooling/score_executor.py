"""One number for each row: what a classifier or a reward model gives a text or an answer, or how likely a language model finds it.

With a language model `score` is the mean logarithm of the likelihood of the answer's tokens after its prompt. By transformers, and by vLLM where the
task asks for it (`vllm_scoring`); the result says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.executors.contract import Context, ExecutorError, Report
from mloc.executors.inference.engine_choice import choose_engine
from mloc.executors.inference.vllm_engine import VllmEngine
from mloc.executors.models.classifiers import scoring_weights
from mloc.executors.models.model_loading import load_model, model_name
from mloc.executors.models.quantization import NO_BITS, refuse_bits
from mloc.executors.pooling.encoder import embedding_of
from mloc.executors.pooling.likelihood import likelihoods
from mloc.executors.pooling.model_head import is_classifier
from mloc.executors.pooling.scoring_model import ScoringModel, classifier_model, likelihood_model
from mloc.executors.pooling.vllm_pooling import by_vllm, plain_identities
from mloc.executors.pooling.vllm_scoring import open_scoring, scoring_identities, start_scoring
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.row_work import RowWork, do_rows, open_work, record_error, record_together
from mloc.executors.rows.rows import Row
from mloc.executors.training.rewards.reward_models import scorer_on


def identities(task: RunTask, context: Context) -> list[str]:
    """What a warm engine may be made of to serve the task."""
    spec = decode_spec(task.spec)
    return scoring_identities(spec, context) if by_vllm(spec, context) else plain_identities(task)


def load(task: RunTask, context: Context) -> Any:
    """The model, or vLLM's engine on it, ready; what stays warm."""
    spec = decode_spec(task.spec)
    load_rows(spec, context)
    if by_vllm(spec, context):
        return start_scoring(spec, context)
    return _classifier(spec, context) if is_classifier(spec, context) else _language_model(spec, context)


def run(task: RunTask, engine: Any, context: Context) -> Iterator[Report]:
    """Score every row that is not recorded yet; then all of them in the order of the input."""
    spec = decode_spec(task.spec)
    scoring = open_scoring(spec, engine, context) if isinstance(engine, VllmEngine) else engine
    work = replace(open_work(task, context, spec, scoring.name), engine=choose_engine(spec, context).as_result())
    yield from do_rows(work, max(embedding_of(spec).batch_size, scoring.at_once), lambda batch: _score(batch, scoring, work))


def _score(batch: list[Row], scoring: ScoringModel, work: RowWork) -> None:
    asked: list[tuple[Row, Any]] = []
    for row in batch:
        try:
            asked.append((row, scoring.prepare(row, work)))
        except ExecutorError as error:
            record_error(work, row, error.type, error.message)

    def record(rows: list[tuple[Row, Any]]) -> None:
        for (row, _), (members, tokens) in zip(rows, scoring.score([one for _, one in rows]), strict=True):
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
    return likelihood_model(loaded.name, loaded.tokenizer, spec.inference, lambda pairs, is_chat: likelihoods(pairs, loaded, is_chat))


def _classifier(spec: TaskSpec, context: Context) -> ScoringModel:
    weights = scoring_weights(spec, context)
    refuse_bits(spec.model, NO_BITS)
    return classifier_model(model_name(weights, context), scorer_on(weights, context))
