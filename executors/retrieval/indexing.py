"""From documents to an index: what was embedded before is not embedded again, neither by a later attempt nor by a later task.

An attempt records vectors as it makes them, below the task's rows, so that one that was killed goes on. A whole index is kept by the digest
of its passages and its embedding model; a task with the same ones finds it.
"""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from mloc.core.language.inference_spec import Retrieval
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError, Progress
from mloc.executors.pooling.encoder import Encoder
from mloc.executors.pooling.vector_files import packed
from mloc.executors.retrieval.documents import load_documents
from mloc.executors.retrieval.index_files import Index, key_of, named_folder, put_index, read_index, write_index
from mloc.executors.retrieval.passages import Passage, split
from mloc.executors.rows.row_store import RowStore

FOLDER = "index"  # below the artifacts
KEPT = 16  # indexes for later tasks; the one that was used longest ago goes first
BATCHES_AT_ONCE = 4
PROGRESS_SEC = 1.0


class Built(Struct):
    """What `build_index` leaves; `index` None where the attempt was asked to stop meanwhile."""

    index: Index | None = None
    embedded: int = 0  # passages that this attempt embedded


def build_index(attempt: int, spec: TaskSpec, retrieval: Retrieval, encoder: Encoder, context: Context, built: Built) -> Iterator[Progress]:
    """The index of the task's documents, or the one that `retrieval.index` names, also among the attempt's artifacts."""
    home = context.artifacts / FOLDER
    identity = f"{encoder.identity} normalize={retrieval.embedding.normalize}"
    if retrieval.documents is None:
        found = read_index(named_folder(retrieval, context))
        _check_embedding(found, identity, encoder)
        yield Progress((f"index of {found.page.passages} passages taken from {found.folder}",))
    else:
        documents = load_documents(spec, context)
        passages = split(documents, retrieval.chunking, encoder.tokenizer)
        key = key_of(passages, identity)
        yield Progress((f"{len(documents)} documents, {len(passages)} passages",))
        kept = context.cache_folder / "indexes" / key[:32] if context.cache_folder is not None else None
        taken = _known(key, [named_folder(retrieval, context) if retrieval.index else None, kept])
        if isinstance(taken, str):
            yield Progress((taken,))
        if isinstance(taken, Index):
            found = taken
            yield Progress((f"the same passages were embedded before with {encoder.name}: taken from {found.folder}",))
        else:
            store = RowStore(context.rows_folder / f"index-{key[:16]}", attempt)
            yield from _embed(passages, store, encoder, retrieval, context, built)
            if len(store) < len(passages):
                return
            vectors = (base64.b64decode(msgspec.json.decode(record)["embedding"]) for record in store.records())
            write_index(home, key, encoder.name, identity, encoder.dimension, passages, vectors)
            found = read_index(home)
        if kept is not None:
            _keep(found, kept)
    if found.folder is not None and found.folder != home:
        put_index(found.folder, home)
    built.index = found


def _check_embedding(index: Index, identity: str, encoder: Encoder) -> None:
    if index.page.dimension != encoder.dimension:
        said = f"the index in {index.folder} has vectors of {index.page.dimension} numbers, made by {index.page.embedding}; {encoder.name} makes "
        raise ExecutorError("DimensionMismatch", f"{said}{encoder.dimension}. Name the same embedding model, or give the task its documents")
    if index.page.identity != identity:
        said = f"the index in {index.folder} was made by {index.page.embedding} with other settings than {encoder.name} has now"
        said += ": questions and passages would not meet"
        raise ExecutorError("EmbeddingMismatch", f"{said}. Name the same model, or give the task its documents")


def _known(key: str, places: list[Path | None]) -> Index | str | None:
    """The index of that key, where one of the places holds it whole; a line for the log where one is damaged."""
    said = None
    for place in filter(None, places):
        try:
            index = read_index(place)
        except ExecutorError as error:
            if error.type == "IndexDamaged":
                said = f"{error.message.partition(';')[0]}: the passages are embedded again"
            continue
        if index.page.key == key:
            return index
    return said


def _embed(
    passages: list[Passage], store: RowStore, encoder: Encoder, retrieval: Retrieval, context: Context, built: Built
) -> Iterator[Progress]:
    began = said_at = time.monotonic()
    if len(store):
        yield Progress((f"{len(store)} of {len(passages)} passages are embedded by an earlier attempt",))
    missing = [number for number in range(len(passages)) if number not in store]
    size = retrieval.embedding.batch_size * BATCHES_AT_ONCE
    for at in range(0, len(missing), size):
        if context.stopping():
            break
        part = missing[at : at + size]
        encoded = encoder.encode([passages[number].text for number in part], "document", retrieval.embedding.normalize)
        for number, vector, tokens in zip(part, encoded.vectors, encoded.tokens, strict=True):
            store.add(number, {"index": number, "embedding": packed(vector)}, tokens)
        built.embedded += len(part)
        list(store.sync_if_due())
        if time.monotonic() - said_at >= PROGRESS_SEC:
            said_at = time.monotonic()
            yield _progress(built.embedded, store, len(passages), said_at - began)
    if len(store) < len(passages):
        list(store.sync())
        return
    yield _progress(built.embedded, store, len(passages), time.monotonic() - began)


def _progress(embedded: int, store: RowStore, total: int, seconds: float) -> Progress:
    speed = embedded / max(seconds, 1e-6)
    tokens = store.new_prompt_tokens / max(seconds, 1e-6)
    metrics = {"passages": float(len(store)), "passages_per_sec": round(speed, 1), "tokens_per_sec": round(tokens, 1)}
    return Progress((f"{len(store)}/{total} passages embedded  {speed:.0f} passages/s",), len(store), total, metrics)


def _keep(index: Index, kept: Path) -> None:
    """For later tasks on this disk. What is in the way is damaged, or the same."""
    if index.folder == kept:
        kept.touch()
        return
    partial = kept.with_name(f".{kept.name}.{time.monotonic_ns()}")
    put_index(index.folder or kept, partial)
    if kept.exists():
        shutil.rmtree(kept, ignore_errors=True)
    try:
        partial.rename(kept)
    except OSError:  # another task was quicker
        shutil.rmtree(partial, ignore_errors=True)
    others = sorted((path for path in kept.parent.iterdir() if not path.name.startswith(".")), key=lambda path: path.stat().st_mtime)
    for old in others[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
