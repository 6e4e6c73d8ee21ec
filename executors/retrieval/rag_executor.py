"""Answers from documents: they are indexed once, each row's question finds its passages, and the model answers with these before it.

The engine is the embedding model, with the one that answers, by vLLM or transformers as in inference, and the one that sorts passages again where
the task has them. Rows are the unit, as in inference: a retried attempt embeds only what is not embedded and answers only what is not answered.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from langchain_core.prompts import PromptTemplate
from msgspec import Struct
from msgspec.structs import replace

from mloc.core.host_frames import RunTask
from mloc.core.language.inference_spec import Retrieval
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.executors.contract import Context, ExecutorError, Progress, Report, Result
from mloc.executors.engine_facts import engine_key_of, identity_of
from mloc.executors.inference.answering_engines import answering_line, check_inference, load_engine, open_answering
from mloc.executors.inference.answers import Answer, Answering, Question, record_answer
from mloc.executors.inference.engine_choice import choose_engine
from mloc.executors.pooling.encoder import Encoder, embedding_source, encoder_spec, load_encoder, no_model
from mloc.executors.pooling.reranker import Reranker
from mloc.executors.retrieval.asking import prompt_template, question_of, with_passages
from mloc.executors.retrieval.indexing import FOLDER, Built, build_index
from mloc.executors.retrieval.searching import Found, find, reranker_of
from mloc.executors.retrieval.stores import Store, open_store
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.row_store import RowStore
from mloc.executors.rows.row_work import Published, RowWork, do_rows, do_steps, open_work, record_error, rows_to_answer
from mloc.executors.rows.rows import Row

ROWS_PER_BATCH = 16
ROWS_PER_BATCH_ON_DEVICE = 64


class RagEngine(Struct, frozen=True):
    """What stays warm. `generator`: what answers, as inference has it; None where only passages are wanted."""

    encoder: Encoder
    reranker: Reranker | None
    generator: Any

    @property
    def alive(self) -> bool:
        return bool(getattr(self.generator, "alive", True))

    def sleep(self) -> bool:
        """The generator off the device, where it can do that."""
        return bool(getattr(self.generator, "sleep", lambda: False)())

    def wake(self) -> None:
        self.generator.wake()

    def close(self) -> None:
        """End what does not end by being forgotten."""
        getattr(self.generator, "close", lambda: None)()


def identities(task: RunTask, context: Context) -> list[str]:
    """An engine that answers serves a task that wants only passages too."""
    spec = decode_spec(task.spec)
    own = identity_of(task, engine_key_of(task))
    return [f"{own} {choose_engine(spec, context).engine}"] if _answers(spec) else [own, f"{own} transformers", f"{own} vllm"]


def load(task: RunTask, context: Context) -> RagEngine:
    """The task's models, ready. What is wrong with its rows or settings is said before one of them is loaded."""
    spec = decode_spec(task.spec)
    retrieval = _retrieval(spec)
    if spec.data is not None:
        load_rows(spec, context)
    if _answers(spec):
        check_inference(spec, context)
    encoder = load_encoder(encoder_spec(spec), embedding_source(retrieval.embedding), context)
    reranker = reranker_of(spec, retrieval.search, context)
    return RagEngine(encoder, reranker, load_engine(spec, context, _device_bytes()) if _answers(spec) else None)


def run(task: RunTask, engine: RagEngine, context: Context) -> Iterator[Report]:
    """Index the documents, then answer every row that is not recorded yet."""
    began = time.monotonic()
    spec = decode_spec(task.spec)
    retrieval = _retrieval(spec)
    template = prompt_template(retrieval.prompt)
    answering = open_answering(spec, engine.generator, context) if _answers(spec) else None
    if answering is not None:
        check_inference(spec, context)
        yield Progress((answering_line(answering),))
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
        asking = _Asking(engine, store, retrieval, template)
        work = open_work(task, context, spec, engine.encoder.name if answering is None else answering.name, _publish(members))
        size = ROWS_PER_BATCH_ON_DEVICE if context.devices else ROWS_PER_BATCH
        if answering is None:
            yield from do_rows(work, size, lambda batch: asking.record_passages(batch, work))
            return
        work = replace(work, engine=answering.engine, metrics=answering.metrics)
        yield from do_steps(work, answering.steps(work, asking.questions(work, answering, size), lambda asked, answer: _record(work, asked, answer)))


class _Asking(Struct, frozen=True):
    """A batch of rows at a time find their passages."""

    engine: RagEngine
    store: Store
    retrieval: Retrieval
    template: PromptTemplate

    def record_passages(self, batch: list[Row], work: RowWork) -> None:
        """Where nobody is asked for an answer."""
        for row, question, found in self._found(batch, work):
            item = {"index": row.index, "prompt": row.asked or question, "passages": found.passages, "metadata": row.metadata}
            usage = {"prompt_tokens": found.tokens, "completion_tokens": 0}
            work.store.add(row.index, {**item, "usage": usage}, found.tokens)

    def questions(self, work: RowWork, answering: Answering, size: int) -> Iterator[Question]:
        """Each row's question with its passages before it."""
        rows = rows_to_answer(work)
        while not work.context.stopping() and (batch := list(islice(rows, size))):
            for row, question, found in self._found(batch, work):
                try:
                    prompt = answering.prompt(with_passages(row, question, found.passages, self.template), work.inference)
                except ExecutorError as error:
                    record_error(work, row, error.type, error.message)
                    continue
                yield Question(row, prompt, found)

    def _found(self, batch: list[Row], work: RowWork) -> Iterator[tuple[Row, str, Found]]:
        asked: list[tuple[Row, str]] = []
        for row in batch:
            try:
                asked.append((row, question_of(row)))
            except ExecutorError as error:
                record_error(work, row, error.type, error.message)
        # outside of what may fail for one row: a store that does not answer is the attempt's failure
        found = find([question for _, question in asked], self.store, self.engine.encoder, self.retrieval.search, self.engine.reranker)
        for (row, question), passages in zip(asked, found, strict=True):
            yield row, question, passages


def _record(work: RowWork, asked: Question, answer: Answer) -> None:
    found, row = asked.beside, asked.row
    more = {**answer.more, "prompt": row.asked or row.columns, "passages": found.passages}
    record_answer(work, row, replace(answer, prompt_tokens=answer.prompt_tokens + found.tokens, more=more))


def _answers(spec: TaskSpec) -> bool:
    """Whether a model is asked."""
    return spec.data is not None and spec.retrieval is not None and spec.retrieval.returns == "answer"


def _device_bytes() -> int:
    """What models of this process have of the first device's memory."""
    torch = sys.modules.get("torch")
    return int(torch.cuda.memory_reserved(0)) if torch is not None and torch.cuda.is_initialized() else 0


def _retrieval(spec: TaskSpec) -> Retrieval:
    retrieval = spec.retrieval
    if retrieval is None:
        raise ExecutorError("NoDocuments", "a task of type rag has no retrieval: give it documents, and the embedding model")
    if embedding_source(retrieval.embedding) is None:
        raise no_model("retrieval.embedding.model: a hub's name or a folder, or retrieval.embedding.source")
    return retrieval


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
