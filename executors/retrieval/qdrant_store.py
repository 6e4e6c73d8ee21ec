"""Qdrant: a server (`retrieval.qdrant`: url, api_key, …), a folder (`retrieval.path`), or in memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from mloc.core.language.inference_spec import Retrieval
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.retrieval.index_files import Index
from mloc.executors.retrieval.stores import (
    PUT_AT_ONCE,
    Hit,
    Query,
    Store,
    allowed_values,
    in_parts,
    passage_of,
    payload_of,
    store_path,
    wrong_dimension,
)

TIMEOUT_SEC = 30
CONFLICT = 409
TEXT_NAMES = ("text", "page_content", "document", "content")
PUT_BYTES = 8 << 20  # of vectors, in one request: a server takes 32 MiB by default
NUMBER_BYTES = 24  # of a number of a vector, as JSON, at most
_SERVER = ("url", "host", "location")
_IDS = uuid.UUID("5f0c9f0a-6f3f-4a53-9d65-0f6d6c6f6331")

Given = TypeVar("Given")


def open_qdrant(retrieval: Retrieval, index: Index | None, dimension: int, context: Context) -> Store:
    """Passages of the index are put once, under ids made of the index's key."""
    path = store_path(retrieval, context)
    place, is_server = _place(retrieval, path)
    where = f"Qdrant's collection {retrieval.collection!r} at {place}"
    if index is None and not is_server and path is None:
        raise ExecutorError("NoDocuments", "the task has neither retrieval.documents nor retrieval.index, and names no Qdrant server or folder")
    client = _guarded(lambda: _client(retrieval, path, is_server), where)
    try:
        there = _guarded(lambda: _dimension(client, retrieval.collection), where)
        if there is not None and there != dimension:
            raise wrong_dimension(where, there, dimension)
        if there is None and index is None:
            raise ExecutorError("IndexNotFound", f"{where} is not there, and the task has no documents to fill it with")
        key = "" if index is None else index.page.key[:32]
        if there is None:
            _guarded(lambda: _create(client, retrieval.collection, dimension, is_server), where)
        if index is not None:
            _guarded(lambda: _put(client, retrieval.collection, index, key, dimension), where)
        count = _guarded(lambda: client.count(retrieval.collection).count, where)
    except BaseException:
        client.close()
        raise

    def search(query: Query) -> list[list[Hit]]:
        return _guarded(lambda: [_search(client, retrieval.collection, vector, query, key) for vector in query.vectors], where)

    return Store(search, where, client.close, int(count))


def _place(retrieval: Retrieval, path: str | None) -> tuple[str, bool]:
    """(what people are shown, whether it is a server). Raises ExecutorError."""
    from urllib.parse import urlsplit

    given = retrieval.qdrant
    if given.get("path"):
        raise ExecutorError("BadSetting", "retrieval.qdrant.path: write the folder as retrieval.path, which is held to where a task may write")
    named = next((str(given[name]) for name in _SERVER if given.get(name)), None)
    if named is None or named == ":memory:":
        return (path or "memory"), False
    parts = urlsplit(named)
    return (f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else named), True


def _client(retrieval: Retrieval, path: str | None, is_server: bool) -> Any:
    from qdrant_client import QdrantClient

    given = {name: value for name, value in retrieval.qdrant.items() if value is not None}
    if is_server:
        return QdrantClient(**{"timeout": TIMEOUT_SEC, "check_compatibility": False, **given})
    return QdrantClient(path=path) if path else QdrantClient(location=":memory:")


def _dimension(client: Any, collection: str) -> int | None:
    """Of the collection's vectors; None where it is not there."""
    if not client.collection_exists(collection):
        return None
    vectors = client.get_collection(collection).config.params.vectors
    if isinstance(vectors, dict):
        raise ValueError(f"its vectors have names ({', '.join(vectors)}), and only collections with one unnamed vector are searched here")
    return int(vectors.size)


def _create(client: Any, collection: str, dimension: int, is_server: bool) -> None:
    """Another task may do the same at the same time."""
    from qdrant_client import models
    from qdrant_client.http.exceptions import UnexpectedResponse

    try:
        client.create_collection(collection, vectors_config=models.VectorParams(size=dimension, distance=models.Distance.COSINE))
    except UnexpectedResponse as error:
        if error.status_code != CONFLICT:
            raise
    if is_server:  # which may be set to refuse filters by fields that have no index
        client.create_payload_index(collection, "mloc_index", models.PayloadSchemaType.KEYWORD, wait=True)


def _put(client: Any, collection: str, index: Index, key: str, dimension: int) -> None:
    from qdrant_client import models

    for part in in_parts(index.passages, min(PUT_AT_ONCE, max(1, PUT_BYTES // (dimension * NUMBER_BYTES)))):
        ids = {str(uuid.uuid5(_IDS, f"{key}-{number}")): number for number in part}
        known = {str(point.id) for point in client.retrieve(collection, list(ids), with_payload=False)}
        new = {id: number for id, number in ids.items() if id not in known}
        if new:
            client.upsert(collection, [
                models.PointStruct(
                    id=id, vector=index.vectors[number].tolist(),
                    payload={**payload_of(index.passages[number], key), "text": index.passages[number].text},
                )
                for id, number in new.items()
            ], wait=True)  # fmt: skip


def _search(client: Any, collection: str, vector: Any, query: Query, key: str) -> list[Hit]:
    found = client.query_points(
        collection, query=vector.tolist(), limit=query.count, query_filter=_filter(query.filter, key), with_payload=True,
        with_vectors=query.with_vectors,
    ).points  # fmt: skip
    return [Hit(passage_of(_text(point.payload or {}), point.payload or {}), float(point.score), point.vector) for point in found]


def _text(payload: dict[str, Any]) -> str:
    return next((str(payload[name]) for name in TEXT_NAMES if payload.get(name)), "")


def _filter(wanted: dict[str, Any], key: str) -> Any:
    from qdrant_client import models

    must = [models.FieldCondition(key=name, match=models.MatchAny(any=allowed_values(value))) for name, value in wanted.items()]
    if key:
        must.append(models.FieldCondition(key="mloc_index", match=models.MatchValue(value=key)))
    return models.Filter(must=must) if must else None


def _guarded(ask: Callable[[], Given], where: str) -> Given:
    """What Qdrant's client raises, in words for a person. Raises ExecutorError; a server that does not answer may do so later."""
    from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

    try:
        return ask()
    except ResponseHandlingException as error:
        said = f"{where}: the server does not answer ({str(error)[:200] or 'no reason given'}). Is it running, and can the worker reach it?"
        raise ExecutorError("StoreUnreachable", said, retryable=True) from error
    except UnexpectedResponse as error:
        is_later = (error.status_code or 0) >= 500 or error.status_code == 429
        hint = "; look after retrieval.qdrant.api_key" if error.status_code in (401, 403) else ""
        said = f"{where}: the server refuses with {error.status_code} {error.reason_phrase}{hint}: {(error.content or b'')[:200]!r}"
        raise ExecutorError("StoreFailed", said, retryable=is_later) from error
    except RuntimeError as error:
        if "already accessed" not in str(error):
            raise ExecutorError("StoreFailed", f"{where} cannot be used: {str(error)[:400]}") from error
        said = f"{where} is in use by another task, and a folder takes one at a time: use a Qdrant server, or another retrieval.path"
        raise ExecutorError("StoreBusy", said, retryable=True) from error
    except (ApiException, ValueError, TypeError, KeyError, AssertionError, OSError) as error:
        raise ExecutorError("StoreFailed", f"{where} cannot be used: {str(error)[:400]}") from error
