"""Texts into vectors, one for each row: `item.embedding`, or rows of `artifacts/embeddings.npy` once they are many.

By sentence-transformers or transformers, and by vLLM where the task asks for it; the result says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import decode_spec
from mloc.executors.contract import Context, ExecutorError, Report
from mloc.executors.inference.engine_choice import choose_engine
from mloc.executors.inference.vllm_engine import VllmEngine
from mloc.executors.pooling.encoder import Encoder, embedding_of, load_encoder, named_source
from mloc.executors.pooling.row_texts import text_with_words
from mloc.executors.pooling.vector_files import packed, publish_vectors
from mloc.executors.pooling.vllm_encoder import encoder_identities, open_encoder, start_encoder
from mloc.executors.pooling.vllm_pooling import by_vllm, plain_identities
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.row_work import RowWork, do_rows, open_work, record_error, record_together
from mloc.executors.rows.rows import Row


def identities(task: RunTask, context: Context) -> list[str]:
    """What a warm engine may be made of to serve the task."""
    spec = decode_spec(task.spec)
    return encoder_identities(spec, named_source(spec), context) if by_vllm(spec, context) else plain_identities(task)


def load(task: RunTask, context: Context) -> Any:
    """The encoder, or vLLM's engine, ready; what stays warm."""
    spec = decode_spec(task.spec)
    load_rows(spec, context)  # wrong data is said before a model is loaded for it
    return (start_encoder if by_vllm(spec, context) else load_encoder)(spec, named_source(spec), context)


def run(task: RunTask, engine: Any, context: Context) -> Iterator[Report]:
    """Embed every row that is not recorded yet; then all of them in the order of the input."""
    spec = decode_spec(task.spec)
    encoder = open_encoder(spec, named_source(spec), engine, context) if isinstance(engine, VllmEngine) else engine
    embedding = embedding_of(spec)
    members = {"dimension": encoder.dimension, "normalized": embedding.normalize}
    work = open_work(task, context, spec, encoder.name)
    engine_said = choose_engine(spec, context).as_result(encoder.library)
    work = replace(work, engine=engine_said, publish=publish_vectors(context, work.rows, encoder.dimension, members))
    yield from do_rows(work, max(embedding.batch_size, encoder.at_once), lambda batch: _embed(batch, encoder, work, embedding.normalize))


def _embed(batch: list[Row], engine: Encoder, work: RowWork, normalize: bool) -> None:
    asked: list[tuple[Row, str]] = []
    for row in batch:
        try:
            asked.append((row, text_with_words(row)))
        except ExecutorError as error:
            record_error(work, row, error.type, error.message)

    def record(rows: list[tuple[Row, str]]) -> None:
        encoded = engine.encode([text for _, text in rows], "document", normalize)
        for (row, _), vector, tokens in zip(rows, encoded.vectors, encoded.tokens, strict=True):
            item = {"index": row.index, "prompt": row.asked or row.columns, "embedding": packed(vector), "metadata": row.metadata}
            work.store.add(row.index, {**item, "usage": {"prompt_tokens": tokens, "completion_tokens": 0}}, tokens)

    if asked:
        record_together(work, asked, record)
