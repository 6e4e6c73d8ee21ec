"""Answers from documents: they are indexed once, each row's question finds its passages, and the model answers with these before it.

The engine is the embedding model, with the model that answers and the one that sorts passages again where the task has them. Rows are the
unit, as in inference: a retried attempt embeds only what is not embedded and answers only what is not answered.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from langchain_core.prompts import PromptTemplate
from msgspec import Struct
from msgspec.structs import replace

from mloc.core.host_frames import RunTask
from mloc.core.language.inference_spec import Retrieval
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.executors.contract import Context, ExecutorError, Progress, Report, Result
from mloc.executors.inference.generation import answer_batch
from mloc.executors.inference.sampling import check_settings
from mloc.executors.models.model_loading import LoadedModel, load_model
from mloc.executors.pooling.encoder import Encoder, embedding_source, encoder_spec, load_encoder, no_model
from mloc.executors.pooling.reranker import Reranker
from mloc.executors.retrieval.asking import prompt_template, question_of, with_passages
from mloc.executors.retrieval.indexing import FOLDER, Built, build_index
from mloc.executors.retrieval.searching import Found, find, reranker_of
from mloc.executors.retrieval.stores import Store, open_store
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.prompts import prompt_text
from mloc.executors.rows.row_store import RowStore
from mloc.executors.rows.row_work import Published, RowWork, do_rows, open_work, record_error, record_together
from mloc.executors.rows.rows import Row

ROWS_PER_BATCH = 16
ROWS_PER_BATCH_ON_DEVICE = 64


class RagEngine(Struct, frozen=True):
    """What stays warm. `generator` is None where only passages are wanted."""

    encoder: Encoder
    generator: LoadedModel | None
    reranker: Reranker | None


def load(task: RunTask, context: Context) -> RagEngine:
    """The task's models, ready. What is wrong with its rows or settings is said before one of them is loaded."""
    spec = decode_spec(task.spec)
    retrieval = _retrieval(spec)
    if spec.data is not None:
        load_rows(spec, context)
    answers = spec.data is not None and retrieval.returns == "answer"
    if answers:
        check_settings(spec.inference)
    encoder = load_encoder(encoder_spec(spec), embedding_source(retrieval.embedding), context)
    return RagEngine(encoder, _generator(spec, context) if answers else None, reranker_of(spec, retrieval.search, context))


def run(task: RunTask, engine: RagEngine, context: Context) -> Iterator[Report]:
    """Index the documents, then answer every row that is not recorded yet."""
    began = time.monotonic()
    spec = decode_spec(task.spec)
    retrieval = _retrieval(spec)
    template = prompt_template(retrieval.prompt)
    if spec.data is not None and retrieval.returns == "answer" and engine.generator is None:
        engine = replace(engine, generator=_generator(spec, context))  # the warm one was made for a task that asked no model
    built = Built()
    if retrieval.documents is not None or retrieval.index is not None:
        yield from build_index(task.attempt, spec, retrieval, engine.encoder, context, built)
        if built.index is None:
            return
    with open_store(retrieval, built.index, engine.encoder.dimension, context) as store:
        members = {"index": _index_shown(built, retrieval, store, engine, context)}
        yield _index_line(built, store)
        if spec.data is None:
            yield _only_index(engine, members, time.monotonic() - began)
            return
        name = engine.generator.name if engine.generator is not None else engine.encoder.name
        work = open_work(task, context, spec, name, _publish(members))
        size = max(1, (ROWS_PER_BATCH_ON_DEVICE if context.devices else ROWS_PER_BATCH) // (spec.inference.n or 1))
        answering = _Answering(work, engine, store, retrieval, template)
        yield from do_rows(work, size, answering.answer)


class _Answering(Struct, frozen=True):
    """A batch of rows at a time: passages for all, then answers for all."""

    work: RowWork
    engine: RagEngine
    store: Store
    retrieval: Retrieval
    template: PromptTemplate

    def answer(self, batch: list[Row]) -> None:
        asked: list[tuple[Row, str]] = []
        for row in batch:
            try:
                asked.append((row, question_of(row)))
            except ExecutorError as error:
                record_error(self.work, row, error.type, error.message)
        # outside of what may fail for one row: a store that does not answer is the attempt's failure
        found = find([question for _, question in asked], self.store, self.engine.encoder, self.retrieval.search, self.engine.reranker)
        ready: list[tuple[Row, Any]] = []
        for (row, question), passages in zip(asked, found, strict=True):
            if self.engine.generator is None:
                item = {"index": row.index, "prompt": row.asked or question, "passages": passages.passages, "metadata": row.metadata}
                usage = {"prompt_tokens": passages.tokens, "completion_tokens": 0}
                self.work.store.add(row.index, {**item, "usage": usage}, passages.tokens)
                continue
            try:
                written = with_passages(row, question, passages.passages, self.template)
                ready.append((row, (prompt_text(written, self.work.inference, self.engine.generator.tokenizer), passages)))
            except ExecutorError as error:
                record_error(self.work, row, error.type, error.message)
        if ready:
            record_together(self.work, ready, self._record)

    def _record(self, ready: list[tuple[Row, Any]]) -> None:
        work, generator = self.work, self.engine.generator
        if work.context.stopping() or generator is None:
            return
        seed = work.context.seed if work.inference.seed is None else work.inference.seed
        prompts = [(row.index, text) for row, (text, _) in ready]
        answers = answer_batch(prompts, work.inference, generator, seed, work.context.stopping)
        for (row, (_, passages)), answer in zip(ready, answers or (), strict=bool(answers)):
            if answer.problem:
                record_error(work, row, "AnswerIncomplete", answer.problem)
                continue
            item = _item(row, answer, passages)
            work.store.add(row.index, item, item["usage"]["prompt_tokens"], answer.completion_tokens)


def _item(row: Row, answer: Any, found: Found) -> dict[str, Any]:
    first = answer.outputs[0]
    item = {"index": row.index, "prompt": row.asked or row.columns, "output": first["text"], "finish_reason": first["finish_reason"]}
    if len(answer.outputs) > 1 or "logprobs" in first:
        item["outputs"] = answer.outputs
    usage = {"prompt_tokens": answer.prompt_tokens + found.tokens, "completion_tokens": answer.completion_tokens}
    return {**item, "passages": found.passages, "metadata": row.metadata, "usage": usage}


def _retrieval(spec: TaskSpec) -> Retrieval:
    retrieval = spec.retrieval
    if retrieval is None:
        raise ExecutorError("NoDocuments", "a task of type rag has no retrieval: give it documents, and the embedding model")
    if embedding_source(retrieval.embedding) is None:
        raise no_model("retrieval.embedding.model: a hub's name or a folder, or retrieval.embedding.source")
    return retrieval


def _generator(spec: TaskSpec, context: Context) -> LoadedModel:
    loaded = load_model(spec, context)
    loaded.model.eval()
    return loaded


def _index_shown(built: Built, retrieval: Retrieval, store: Store, engine: RagEngine, context: Context) -> dict[str, Any]:
    """What the result says of the index; a later task may name its `path`."""
    shown: dict[str, Any] = {
        "store": retrieval.store, "where": store.shown, "collection": retrieval.collection, "passages": store.passages,
        "embedding": engine.encoder.name, "dimension": engine.encoder.dimension,
    }  # fmt: skip
    if built.index is None:
        return shown
    path = context.final_path(context.artifacts / FOLDER)
    return {**shown, "path": path, "key": built.index.page.key, "embedded": built.embedded, "size_bytes": built.index.size_bytes}


def _index_line(built: Built, store: Store) -> Progress:
    size = built.index.size_bytes if built.index is not None else 0
    metrics = {"index_passages": float(store.passages), "index_bytes": float(size)}
    return Progress((f"{store.passages} passages in {store.shown}" + (f", {size / 1024:.0f} KiB" if size else ""),), metrics=metrics)


def _publish(members: dict[str, Any]) -> Any:
    def publish(_: RowStore) -> Published:
        return Published(members=members)

    return publish


def _only_index(engine: RagEngine, members: dict[str, Any], seconds: float) -> Result:
    """A task without questions makes an index for others."""
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "latency_sec": round(seconds, 3), "num_requests": 0}
    return Result({"ok": True, "model": engine.encoder.name, "items": [], **members, "usage": usage}, files=True)
