"""The tool `retrieval`: looks words up in documents that the task gives, ranked by BM25 (Robertson and Zaragoza 2009).

Documents come with the tool, or from the task's `retrieval` section: texts, {text, source}, a file (`.jsonl`, `.csv`, text), or a folder of files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool
from msgspec import Struct

from mloc.core.language.inference_spec import PASSAGES
from mloc.core.language.spec import TaskSpec
from mloc.executors.agents.tools.toolbox import Kind, Place
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.rows.row_files import READERS, read_rows

TEXTS = (".txt", ".md", ".rst", ".html")
MOST_BYTES = 64 << 20
_WORDS = re.compile(r"\w+")


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`documents`: as in `retrieval.documents`; `top_k`: passages for a question."""

    documents: tuple[Any, ...] | str | None = None
    top_k: int | None = None


class Passage(Struct, frozen=True):
    """A piece of a document."""

    text: str
    source: str


def _make(options: Options, place: Place, _: ExitStack) -> Iterable[BaseTool]:
    passages = passages_of(options, place.spec, place.context)
    top_k = options.top_k or (place.spec.retrieval.search.top_k if place.spec.retrieval else None) or PASSAGES
    ranked = _index(passages)

    def retrieval(query: str) -> str:
        found = ranked(query, top_k)
        return "\n\n".join(f"[{passage.source}] {passage.text}" for passage in found) or "(no document has these words)"

    return [StructuredTool.from_function(retrieval, description="Looks a question up in the documents and gives the passages that fit best.")]


def passages_of(options: Options, spec: TaskSpec, context: Context) -> list[Passage]:
    """Raises ExecutorError where there are none."""
    documents = options.documents if options.documents is not None else spec.retrieval.documents if spec.retrieval else None
    chunking = spec.retrieval.chunking if spec.retrieval else None
    size, overlap = (chunking.size, chunking.overlap) if chunking else (800, 100)
    found = [Passage(piece, source) for text, source in _documents(documents, context) for piece in _pieces(text, size, overlap)]
    if not found:
        raise ExecutorError("NoDocuments", f"agent.tools: retrieval: {HOW}")
    return found


HOW = "there are no documents; give {retrieval: {documents: [texts] or a file or a folder}}, or the task's retrieval.documents"


def _documents(given: Any, context: Context) -> Iterator[tuple[str, str]]:
    """(text, source) of each."""
    match given:
        case None:
            return
        case str() | {"path": str()} | {"folder": str()}:
            named = given if isinstance(given, str) else str(given.get("path") or given["folder"])
            yield from _of_path(Path(context.local(named)).expanduser())
        case {"text": str(text)}:
            yield text, str(given.get("source") or given.get("title") or "document")
        case list() | tuple():
            for number, one in enumerate(given, 1):
                if isinstance(one, str):
                    yield one, f"document {number}"
                else:
                    yield from _documents(one, context)
        case _:
            raise ExecutorError("BadData", f"agent.tools: retrieval: {str(given)[:80]!r} is no document; a document is a text or {{text, source}}")


def _of_path(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and not file.is_symlink() and file.suffix.lower() in (*TEXTS, *READERS):
                yield from _of_path(file)
    elif not path.is_file():
        raise ExecutorError("FileNotFound", f"agent.tools: retrieval: {path} is neither a file nor a folder on the worker")
    elif path.stat().st_size > MOST_BYTES:
        raise ExecutorError("TooLarge", f"agent.tools: retrieval: {path} is larger than {MOST_BYTES >> 20} MiB; a task of type rag takes such")
    elif path.suffix.lower() in READERS:
        for number, row in enumerate(read_rows(path), 1):
            text = next((row[name] for name in ("text", "passage", "document", "content") if isinstance(row.get(name), str)), None)
            if text is not None:
                yield text, str(row.get("source") or row.get("title") or f"{path.name}:{number}")
    else:
        yield path.read_text("utf-8", "replace"), path.name


def _pieces(text: str, size: int, overlap: int) -> Iterator[str]:
    step = max(1, size - overlap)
    for start in range(0, max(1, len(text) - overlap), step):
        if piece := text[start : start + size].strip():
            yield piece


def _index(passages: list[Passage]) -> Any:
    from rank_bm25 import BM25Plus

    index = BM25Plus([_words(passage.text) for passage in passages])

    def ranked(query: str, top_k: int) -> list[Passage]:
        words = set(_words(query))
        scores = index.get_scores(list(words))
        best = sorted(range(len(passages)), key=lambda at: (-scores[at], at))
        return [passages[at] for at in best if words & set(_words(passages[at].text))][:top_k]

    return ranked


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.lower())


def _check(options: Options, spec: TaskSpec) -> None:
    if not options.documents and not (spec.retrieval and spec.retrieval.documents):
        raise ExecutorError("NoDocuments", f"agent.tools: retrieval: {HOW}")
    try:
        import rank_bm25
    except ImportError as error:
        raise ExecutorError("MissingDependency", 'the tool retrieval needs rank_bm25: pip install "mloc[agent]" (on the worker)') from error
    assert rank_bm25


KIND = Kind(Options, _make, _check)
