"""The tool `retrieval`: looks words up in documents that the task gives, ranked by BM25 (Robertson and Zaragoza 2009).

Documents come with the tool, or from the task's `retrieval` section, in every form that a task of type rag takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from langchain_core.tools import BaseTool, StructuredTool
from msgspec import Struct
from msgspec.structs import replace

from mloc.core.language.inference_spec import PASSAGES, Retrieval
from mloc.core.language.spec import TaskSpec
from mloc.executors.agents.tools.toolbox import Kind, Place
from mloc.executors.contract import ExecutorError

if TYPE_CHECKING:
    from mloc.executors.retrieval.passages import Passage

NEEDS = ("rank_bm25", "langchain_text_splitters")
HOW = "there are no documents; give {retrieval: {documents: [texts] or a file or a folder}}, or the task's retrieval.documents"
_WORDS = re.compile(r"\w+")


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`documents`: as in `retrieval.documents`; `top_k`: passages for a question."""

    documents: tuple[Any, ...] | dict[str, Any] | str | None = None
    top_k: int | None = None


def _make(options: Options, place: Place, _: ExitStack) -> Iterable[BaseTool]:
    from mloc.executors.retrieval.documents import load_documents
    from mloc.executors.retrieval.passages import split

    section = place.spec.retrieval or Retrieval()
    section = section if options.documents is None else replace(section, documents=options.documents)
    documents = load_documents(replace(place.spec, retrieval=section), place.context)
    ranked = _index(split(documents, replace(section.chunking, unit="characters"), None))

    def retrieval(query: str) -> str:
        found = ranked(query, options.top_k or section.search.top_k or PASSAGES)
        return "\n\n".join(f"[{passage.source}] {passage.text}" for passage in found) or "(no document has these words)"

    return [StructuredTool.from_function(retrieval, description="Looks a question up in the documents and gives the passages that fit best.")]


def _index(passages: list[Passage]) -> Callable[[str, int], list[Passage]]:
    from rank_bm25 import BM25Plus

    words = [_WORDS.findall(passage.text.lower()) for passage in passages]
    index = BM25Plus(words)

    def ranked(query: str, top_k: int) -> list[Passage]:
        asked = set(_WORDS.findall(query.lower()))
        scores = index.get_scores(sorted(asked))
        best = sorted(range(len(passages)), key=lambda at: (-scores[at], at))
        return [passages[at] for at in best if not asked.isdisjoint(words[at])][:top_k]

    return ranked


def _check(options: Options, spec: TaskSpec) -> None:
    if not options.documents and not (spec.retrieval and spec.retrieval.documents):
        raise ExecutorError("NoDocuments", f"agent.tools: retrieval: {HOW}")
    if lacking := [name for name in NEEDS if find_spec(name) is None]:
        raise ExecutorError("MissingDependency", f'the tool retrieval needs {", ".join(lacking)}: pip install "mloc[agent]" (on the worker)')


KIND = Kind(Options, _make, _check)
