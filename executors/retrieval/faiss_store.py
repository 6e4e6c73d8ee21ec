"""faiss: exact search over the vectors in memory; with `retrieval.path` the index is kept there for the next time."""

from __future__ import annotations

from pathlib import Path

from mloc.core.language.inference_spec import Retrieval
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.retrieval.index_files import Index, put_index, read_index
from mloc.executors.retrieval.stores import Hit, Query, Store, allowed_values, store_path, wrong_dimension


def open_faiss(retrieval: Retrieval, index: Index | None, dimension: int, context: Context) -> Store:
    """Without an index, the one that an earlier task left at `retrieval.path`."""
    import faiss
    import numpy

    path = store_path(retrieval, context)
    folder = Path(path) / retrieval.collection if path else None
    if index is None:
        if folder is None:
            raise ExecutorError("NoDocuments", "the task has neither retrieval.documents nor retrieval.index, and no retrieval.path with a store")
        index = read_index(folder)
    elif folder is not None and index.folder is not None:
        put_index(index.folder, folder)
    if index.page.dimension != dimension:
        raise wrong_dimension(f"the index in {folder or index.folder}", index.page.dimension, dimension)
    kept = index
    unit = numpy.ascontiguousarray(kept.vectors, "float32")
    lengths = numpy.linalg.norm(unit, axis=1, keepdims=True)
    unit = unit / numpy.maximum(lengths, 1e-12)
    searched = faiss.IndexFlatIP(dimension)
    searched.add(unit)

    def search(query: Query) -> list[list[Hit]]:
        chosen = _matching(kept, query)
        count = min(query.count, len(chosen) if chosen is not None else len(kept.passages))
        if not count:
            return [[] for _ in query.vectors]
        parameters = None if chosen is None else faiss.SearchParameters(sel=faiss.IDSelectorBatch(numpy.array(chosen, "int64")))
        scores, numbers = searched.search(query.vectors, count, params=parameters)
        return [
            [Hit(kept.passages[n], float(score), unit[n] if query.with_vectors else None) for score, n in zip(row, of_row, strict=True) if n >= 0]
            for row, of_row in zip(scores, numbers, strict=True)
        ]

    return Store(search, f"faiss in {folder}" if folder else "faiss in memory", passages=len(kept.passages))


def _matching(index: Index, query: Query) -> list[int] | None:
    """The passages that the filter lets through; None: all."""
    if not query.filter:
        return None
    wanted = {name: allowed_values(value) for name, value in query.filter.items()}
    return [
        number
        for number, passage in enumerate(index.passages)
        if all({**passage.metadata, "source": passage.source}.get(name) in values for name, values in wanted.items())
    ]
