"""Passages sorted by how well they answer a question. A row has a `query` and `documents`, or the `passages` that a retrieval found.

By transformers, and by vLLM where the task asks for it; the result says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.executors.contract import Context, ExecutorError, Report
from mloc.executors.inference.engine_choice import choose_engine
from mloc.executors.inference.vllm_engine import VllmEngine
from mloc.executors.pooling.encoder import named_source
from mloc.executors.pooling.reranker import Reranker, load_reranker
from mloc.executors.pooling.row_texts import text_of
from mloc.executors.pooling.vllm_encoder import open_reranker, reranker_identities, start_reranker
from mloc.executors.pooling.vllm_pooling import by_vllm, plain_identities
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.row_work import RowWork, do_rows, open_work, record_error, record_together
from mloc.executors.rows.rows import Row

ROWS_PER_BATCH = 8
_NAMES = ("documents", "passages", "results", "texts")


def identities(task: RunTask, context: Context) -> list[str]:
    """What a warm engine may be made of to serve the task."""
    spec = decode_spec(task.spec)
    return reranker_identities(spec, named_source(spec), context) if by_vllm(spec, context) else plain_identities(task)


def load(task: RunTask, context: Context) -> Any:
    """The model, or vLLM's engine on it, ready; what stays warm."""
    spec = decode_spec(task.spec)
    load_rows(spec, context)
    return start_reranker(spec, named_source(spec), context) if by_vllm(spec, context) else load_reranker(spec, context)


def run(task: RunTask, engine: Any, context: Context) -> Iterator[Report]:
    """Sort the passages of every row that is not recorded yet; then all rows in the order of the input."""
    spec = decode_spec(task.spec)
    reranker = open_reranker(spec, named_source(spec), engine, context) if isinstance(engine, VllmEngine) else engine
    shared = _shared_documents(spec)
    work = replace(open_work(task, context, spec, reranker.name), engine=choose_engine(spec, context).as_result(reranker.library))
    top = spec.retrieval.search.top_k if spec.retrieval is not None else None
    least = spec.retrieval.search.score_threshold if spec.retrieval is not None else None
    yield from do_rows(work, ROWS_PER_BATCH, lambda batch: _rerank(batch, reranker, work, shared, top, least))


def ranked(question: str, passages: list[dict[str, Any]], engine: Reranker, top: int | None, least: float | None) -> tuple[list[dict[str, Any]], int]:
    """The passages with their new `score`, best first; of two that score alike the earlier one. And the tokens read."""
    scores, tokens = engine.scores(question, [passage["text"] for passage in passages])
    scored = [{**passage, "score": round(score, 6)} for passage, score in zip(passages, scores, strict=True)]
    kept = [passage for passage in scored if least is None or passage["score"] >= least]
    return sorted(kept, key=lambda passage: -passage["score"])[:top], tokens


def _rerank(batch: list[Row], engine: Reranker, work: RowWork, shared: list[Any], top: int | None, least: float | None) -> None:
    asked: list[tuple[Row, Any]] = []
    for row in batch:
        try:
            asked.append((row, (text_of(row), _documents(row, shared))))
        except ExecutorError as error:
            record_error(work, row, error.type, error.message)

    def record(rows: list[tuple[Row, Any]]) -> None:
        for row, (question, passages) in rows:
            if row.index in work.store or work.context.stopping():
                continue
            results, tokens = ranked(question, passages, engine, top, least)
            item = {"index": row.index, "prompt": question, "results": results, "metadata": row.metadata}
            work.store.add(row.index, {**item, "usage": {"prompt_tokens": tokens, "completion_tokens": 0}}, tokens)

    if asked:
        record_together(work, asked, record)


def _documents(row: Row, shared: list[Any]) -> list[dict[str, Any]]:
    given = next((row.columns[name] for name in _NAMES if row.columns.get(name)), None) or shared
    if not given:
        has = ", ".join(sorted(row.columns)) or "nothing"
        raise ExecutorError("NoDocuments", f"the row has no documents to sort; it has {has}. Give it documents: [text, …]")
    if not isinstance(given, list | tuple):
        raise ExecutorError("BadRow", f"documents are a list of texts, found {type(given).__name__}")
    return [_document(at, one) for at, one in enumerate(given)]


def _document(at: int, given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        return {"index": at, "text": given}
    if isinstance(given, Mapping) and isinstance(given.get("text"), str):
        return {**given, "index": at}
    raise ExecutorError("BadRow", f"documents[{at}] is neither a text nor a mapping with a text: {str(given)[:80]}")


def _shared_documents(spec: TaskSpec) -> list[Any]:
    """`retrieval.documents` written in the task serve the rows that bring none."""
    documents = spec.retrieval.documents if spec.retrieval is not None else None
    return list(documents) if isinstance(documents, list | tuple) else []
