"""Texts into vectors, one for each row: `item.embedding`, or rows of `artifacts/embeddings.npy` once they are many."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.executors.contract import Context, ExecutorError, Report
from mloc.executors.pooling.encoder import Encoder, embedding_of, embedding_source, load_encoder, no_model
from mloc.executors.pooling.row_texts import text_of
from mloc.executors.pooling.vector_files import packed, publish_vectors
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.row_work import RowWork, do_rows, open_work, record_error, record_together
from mloc.executors.rows.rows import Row


def load(task: RunTask, context: Context) -> Encoder:
    """The encoder, ready; the engine that stays warm."""
    spec = decode_spec(task.spec)
    load_rows(spec, context)  # wrong data is said before a model is loaded for it
    return _encoder(spec, context)


def run(task: RunTask, engine: Encoder, context: Context) -> Iterator[Report]:
    """Embed every row that is not recorded yet; then all of them in the order of the input."""
    spec = decode_spec(task.spec)
    embedding = embedding_of(spec)
    members = {"dimension": engine.dimension, "normalized": embedding.normalize}
    work = open_work(task, context, spec, engine.name)
    work = replace(work, publish=publish_vectors(context, work.rows, engine.dimension, members))
    yield from do_rows(work, embedding.batch_size, lambda batch: _embed(batch, engine, work, embedding.normalize))


def _encoder(spec: TaskSpec, context: Context) -> Encoder:
    source = spec.model.source or embedding_source(embedding_of(spec))
    if source is None and spec.checkpoint.load is None:
        raise no_model("model.source with a type and an identifier")
    return load_encoder(spec, source, context)


def _embed(batch: list[Row], engine: Encoder, work: RowWork, normalize: bool) -> None:
    asked: list[tuple[Row, str]] = []
    for row in batch:
        try:
            asked.append((row, text_of(row)))
        except ExecutorError as error:
            record_error(work, row, error.type, error.message)

    def record(rows: list[tuple[Row, str]]) -> None:
        encoded = engine.encode([text for _, text in rows], "document", normalize)
        for (row, _), vector, tokens in zip(rows, encoded.vectors, encoded.tokens, strict=True):
            item = {"index": row.index, "prompt": row.asked or row.columns, "embedding": packed(vector), "metadata": row.metadata}
            work.store.add(row.index, {**item, "usage": {"prompt_tokens": tokens, "completion_tokens": 0}}, tokens)

    if asked:
        record_together(work, asked, record)
