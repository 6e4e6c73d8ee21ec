"""The tool `retrieval`: looks a question up in documents that the task gives, or in an index that an earlier task made.

By meaning where `retrieval.embedding` names a model, with all that a task of type rag has (index, store, search); else by words, ranked by BM25
(Robertson and Zaragoza 2009).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from langchain_core.tools import BaseTool, StructuredTool
from msgspec import Struct
from msgspec.structs import replace

from mloc.core.language.inference_spec import PASSAGES, Retrieval
from mloc.core.language.spec import TaskSpec
from mloc.executors.agents.tools.toolbox import Ground, Kind, Place
from mloc.executors.contract import ExecutorError, Progress
from mloc.executors.registry import BUILT_IN

if TYPE_CHECKING:
    from mloc.executors.retrieval.passages import Passage

WORDS = ("rank_bm25", "langchain_text_splitters")
HOW = "there are no documents; give {retrieval: {documents: [texts] or a file or a folder}}, or the task's retrieval.documents or retrieval.index"
_WORD = re.compile(r"\w+")

LookUp = Callable[[str], Iterable[tuple[str, str]]]
"""A question's passages, best first: source and text."""


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`documents`: as in `retrieval.documents`; `top_k`: passages for a question."""

    documents: tuple[Any, ...] | dict[str, Any] | str | None = None
    top_k: int | None = None


def _make(options: Options, place: Place, _: ExitStack) -> Iterable[BaseTool]:
    def retrieval(query: str) -> str:
        return "\n\n".join(f"[{source}] {text}" for source, text in place.prepared(query)) or "(no document has these words)"

    return [StructuredTool.from_function(retrieval, description="Looks a question up in the documents and gives the passages that fit best.")]


def _prepare(options: Options, ground: Ground) -> Generator[Progress, None, LookUp]:
    section = _section(options, ground.spec)
    section = replace(section, search=replace(section.search, top_k=options.top_k or section.search.top_k or PASSAGES))
    if _by_meaning(section):
        return (yield from _meanings(section, ground))
    return _words(section, ground)


def _section(options: Options, spec: TaskSpec) -> Retrieval:
    """The task's section; documents of the tool's own stand for the task's, and for its index."""
    section = spec.retrieval or Retrieval()
    return section if options.documents is None else replace(section, documents=options.documents, index=None)


def _by_meaning(section: Retrieval) -> bool:
    return section.embedding.source is not None or bool(section.embedding.model)


def _meanings(section: Retrieval, ground: Ground) -> Generator[Progress, None, LookUp]:
    from mloc.executors.pooling.encoder import embedding_source, encoder_spec, load_encoder
    from mloc.executors.retrieval.indexing import Built, build_index
    from mloc.executors.retrieval.searching import find, reranker_of
    from mloc.executors.retrieval.stores import open_store

    spec = replace(ground.spec, retrieval=section)
    encoder = load_encoder(encoder_spec(spec), embedding_source(section.embedding), ground.context)
    reranker = reranker_of(spec, section.search, ground.context)
    built = Built()
    if section.documents is not None or section.index is not None:
        yield from build_index(ground.attempt, spec, section, encoder, ground.context, built)
        if built.index is None:  # asked to stop: no question will be put
            return lambda query: ()
    store = ground.stack.enter_context(open_store(section, built.index, encoder.dimension, ground.context))
    yield Progress((f"{store.passages} passages in {store.shown}",))

    def look_up(query: str) -> Iterable[tuple[str, str]]:
        (found,) = find([query], store, encoder, section.search, reranker)
        return ((passage["source"], passage["text"]) for passage in found.passages)

    return look_up


def _words(section: Retrieval, ground: Ground) -> LookUp:
    from rank_bm25 import BM25Plus

    passages = _passages(section, ground)
    words = [_WORD.findall(passage.text.lower()) for passage in passages]
    index = BM25Plus(words)

    def look_up(query: str) -> Iterable[tuple[str, str]]:
        asked = set(_WORD.findall(query.lower()))
        scores = index.get_scores(sorted(asked))
        best = sorted(range(len(passages)), key=lambda at: (-scores[at], at))
        near = [passages[at] for at in best if not asked.isdisjoint(words[at])]
        return ((passage.source, passage.text) for passage in near[: section.search.top_k])

    return look_up


def _passages(section: Retrieval, ground: Ground) -> list[Passage]:
    if section.documents is None and section.index is not None:
        from mloc.executors.retrieval.index_files import named_folder, read_index

        return read_index(named_folder(section, ground.context)).passages
    from mloc.executors.retrieval.documents import load_documents
    from mloc.executors.retrieval.passages import split

    documents = load_documents(replace(ground.spec, retrieval=section), ground.context)
    return split(documents, replace(section.chunking, unit="characters"), None)


def _check(options: Options, spec: TaskSpec) -> None:
    section = _section(options, spec)
    by_meaning = _by_meaning(section)
    if not (section.documents or section.index or (by_meaning and (section.path or section.qdrant))):
        raise ExecutorError("NoDocuments", f"agent.tools: retrieval: {HOW}")
    names, extra = (BUILT_IN["rag"].missing(), "rag") if by_meaning else (tuple(name for name in WORDS if find_spec(name) is None), "agent")
    if names:
        raise ExecutorError("MissingDependency", f'the tool retrieval needs {", ".join(names)}: pip install "mloc[{extra}]" (on the worker)')


KIND = Kind(Options, _make, _check, _prepare)
