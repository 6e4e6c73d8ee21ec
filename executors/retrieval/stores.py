"""Where vectors are looked up: faiss, chromadb or Qdrant. Each is opened by a function of its own and answers alike.

Scores are cosines, whatever a store calls its distance: 1 the same direction, 0 nothing in common.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from mloc.core.language.inference_spec import Retrieval
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.retrieval.index_files import Index
from mloc.executors.retrieval.passages import Passage

PUT_AT_ONCE = 512  # passages


class Hit(Struct, frozen=True):
    """A passage that was found. `vector` only where it was asked for."""

    passage: Passage
    score: float
    vector: Any = None


class Query(Struct, frozen=True):
    """`vectors`: float32 [questions, dimension], of length 1. `filter`: name → value, or values of which any will do."""

    vectors: Any
    count: int
    filter: dict[str, Any] = {}
    with_vectors: bool = False


class Store(Struct, frozen=True):
    """`search` gives the best passages of each question, best first; `shown` says where it is."""

    search: Callable[[Query], list[list[Hit]]]
    shown: str
    close: Callable[[], None] = lambda: None
    passages: int = 0


@contextlib.contextmanager
def open_store(retrieval: Retrieval, index: Index | None, dimension: int, context: Context) -> Iterator[Store]:
    """The store that `retrieval` names, with the index's passages in it; without an index, with what it holds. Raises ExecutorError."""
    if retrieval.store == "faiss":
        from mloc.executors.retrieval.faiss_store import open_faiss as opened
    elif retrieval.store == "chromadb":
        from mloc.executors.retrieval.chroma_store import open_chroma as opened
    else:
        from mloc.executors.retrieval.qdrant_store import open_qdrant as opened
    store = opened(retrieval, index, dimension, context)
    try:
        yield store
    finally:
        store.close()


def store_path(retrieval: Retrieval, context: Context) -> str | None:
    """The folder of the store on this disk. The worker has seen to it that it lies where the task may write."""
    if retrieval.path is None:
        return None
    local = context.local(retrieval.path)
    if not local.startswith("/"):
        raise ExecutorError("BadSetting", f"retrieval.path: the worker gave no folder for {retrieval.path!r}")
    return local


def allowed_values(wanted: Any) -> list[Any]:
    """What a filter's value means: any of these."""
    return list(wanted) if isinstance(wanted, list | tuple) else [wanted]


def in_parts(passages: Sequence[Passage], at_once: int = PUT_AT_ONCE) -> Iterator[range]:
    """Ranges of passages that are put at once."""
    for at in range(0, len(passages), at_once):
        yield range(at, min(at + at_once, len(passages)))


def payload_of(passage: Passage, key: str) -> dict[str, Any]:
    """A passage as a store keeps it beside its vector, and the key of the index that it belongs to."""
    return {**passage.metadata, "source": passage.source, "position": passage.position, "mloc_index": key}


def passage_of(text: str, payload: dict[str, Any]) -> Passage:
    """The other way round; what others put into the store is read as well."""
    rest = {name: value for name, value in payload.items() if name not in ("source", "position", "mloc_index", "text")}
    return Passage(text, str(payload.get("source", "")), int(payload.get("position") or 0), rest)


def wrong_dimension(where: str, there: int, dimension: int) -> ExecutorError:
    """The error of a collection that holds other vectors."""
    said = f"{where} holds vectors of {there} numbers, and the embedding model makes {dimension}"
    return ExecutorError("DimensionMismatch", f"{said}: name another retrieval.collection, or the model that it was made with")
