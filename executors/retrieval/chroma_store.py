"""chromadb: a collection in a folder (`retrieval.path`), or in memory. Vectors come from our own encoder; its telemetry is off."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from mloc.core.language.inference_spec import Retrieval
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.retrieval.index_files import Index
from mloc.executors.retrieval.stores import Hit, Query, Store, allowed_values, in_parts, passage_of, payload_of, store_path, wrong_dimension

Given = TypeVar("Given")


def open_chroma(retrieval: Retrieval, index: Index | None, dimension: int, context: Context) -> Store:
    """Passages of the index that the collection has already are not put again."""
    import chromadb
    from chromadb.config import Settings

    path = store_path(retrieval, context)
    where = f"chromadb's collection {retrieval.collection!r} in {path or 'memory'}"
    if index is None and path is None:
        raise ExecutorError("NoDocuments", "the task has neither retrieval.documents nor retrieval.index, and no retrieval.path with a store")
    settings = Settings(anonymized_telemetry=False)

    def opened() -> Any:
        client = chromadb.EphemeralClient(settings=settings) if path is None else chromadb.PersistentClient(path=path, settings=settings)
        if path is None and retrieval.collection in [one.name for one in client.list_collections()]:
            client.delete_collection(retrieval.collection)  # of an earlier task in this process
        if index is None:
            return client.get_collection(retrieval.collection, embedding_function=None)
        return client.get_or_create_collection(retrieval.collection, embedding_function=None, configuration={"hnsw": {"space": "cosine"}})

    collection = _guarded(opened, where)
    there = _guarded(lambda: _dimension(collection), where)
    if there is not None and there != dimension:
        raise wrong_dimension(where, there, dimension)
    key = "" if index is None else index.page.key[:32]
    if index is not None:
        _guarded(lambda: _put(collection, index, key), where)
    count = _guarded(collection.count, where)

    def search(query: Query) -> list[list[Hit]]:
        return _guarded(lambda: _search(collection, query, key, count), where)

    return Store(search, where, passages=count)


def _dimension(collection: Any) -> int | None:
    first = collection.get(limit=1, include=["embeddings"])["embeddings"]
    return None if first is None or not len(first) else len(first[0])


def _put(collection: Any, index: Index, key: str) -> None:
    for part in in_parts(index.passages):
        ids = {f"{key}-{number}": number for number in part}
        new = {id: number for id, number in ids.items() if id not in set(collection.get(ids=list(ids), include=[])["ids"])}
        if new:
            passages = [index.passages[number] for number in new.values()]
            collection.add(
                ids=list(new), embeddings=[index.vectors[number].tolist() for number in new.values()],
                documents=[passage.text for passage in passages], metadatas=[payload_of(passage, key) for passage in passages],
            )  # fmt: skip


def _search(collection: Any, query: Query, key: str, count: int) -> list[list[Hit]]:
    if not count:
        return [[] for _ in query.vectors]
    include = ["documents", "metadatas", "distances", *(["embeddings"] if query.with_vectors else [])]
    found = collection.query(
        query_embeddings=query.vectors.tolist(), n_results=min(query.count, count), where=_where(query.filter, key), include=include
    )  # fmt: skip
    made: list[list[Hit]] = []
    for row, texts in enumerate(found["documents"]):
        payloads, distances = found["metadatas"][row], found["distances"][row]
        vectors = found["embeddings"][row] if query.with_vectors else [None] * len(texts)
        parts = zip(texts, payloads, distances, vectors, strict=True)
        made.append([Hit(passage_of(text or "", payload or {}), 1 - float(far), vector) for text, payload, far, vector in parts])
    return made


def _where(filter: dict[str, Any], key: str) -> dict[str, Any] | None:
    conditions: list[dict[str, Any]] = [{name: {"$in": allowed_values(value)}} for name, value in filter.items()]
    if key:
        conditions.append({"mloc_index": key})
    return conditions[0] if len(conditions) == 1 else {"$and": conditions} if conditions else None


def _guarded(ask: Callable[[], Given], where: str) -> Given:
    """What chromadb raises, in words for a person. Raises ExecutorError."""
    from chromadb.errors import ChromaError, NotFoundError

    try:
        return ask()
    except NotFoundError as error:
        raise ExecutorError("IndexNotFound", f"{where} is not there, and the task has no documents to fill it with") from error
    except (ChromaError, sqlite3.DatabaseError, ValueError, TypeError, KeyError) as error:
        said = f"{where} cannot be used: {str(error)[:400]}. Where its folder is damaged remove it, and the next task makes it anew"
        raise ExecutorError("StoreFailed", said) from error
    except BaseException as error:  # its Rust part panics with an exception that is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise ExecutorError("StoreFailed", f"{where} is damaged ({str(error)[:300]}); remove its folder, and the next task makes it anew") from error
