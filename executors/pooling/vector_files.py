"""Vectors in rows of a result, and in a file of their own once they are many."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mloc.executors.contract import Context
from mloc.executors.durable_files import write_durably
from mloc.executors.rows.data_loading import Rows
from mloc.executors.rows.row_store import RowStore
from mloc.executors.rows.row_work import Published

FILE = "embeddings.npy"
INLINE_BYTES = 1024 * 1024  # of vectors in the items; more of them are a file
_BYTES_A_NUMBER = 12  # of JSON, about


def packed(vector: Any) -> str:
    """A vector as it lies in a row's record: float32, little-endian, in base64."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def unpacked(text: str) -> Any:
    """float32 [dimension]."""
    import numpy

    return numpy.frombuffer(base64.b64decode(text), "<f4")


def publish_vectors(context: Context, rows: Rows, dimension: int, members: dict[str, Any]) -> Any:
    """How records with an `embedding` become a result: few of them as lists of numbers in the items, many as rows of `embeddings.npy`.

    All shards of a task do the same, whatever the length of their texts: they are joined."""

    def publish(store: RowStore) -> Published:
        inside = store.size_bytes + len(store) * dimension * _BYTES_A_NUMBER
        if (inside if context.shard is None else rows.total * dimension * _BYTES_A_NUMBER) <= INLINE_BYTES:
            return Published(_with_list, members, size_bytes=inside)
        file = context.artifacts / FILE
        write_npy(file, len(store), dimension, _rows(store, dimension))
        made = {"file": f"artifacts/{FILE}", "path": context.final_path(file), "rows": len(store), "dimension": dimension, "dtype": "float32"}
        return Published(_without, {**members, "embeddings": made})

    return publish


def write_npy(file: Path, rows: int, dimension: int, chunks: Iterator[bytes]) -> str:
    """Write float32 [rows, dimension] durably, a chunk at a time. Returns the file's sha256."""
    return write_durably(file, _npy(rows, dimension, chunks))[0]


def _npy(rows: int, dimension: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    import io

    from numpy.lib import format as npy

    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)})
    yield header.getvalue()
    yield from chunks


def _rows(store: RowStore, dimension: int) -> Iterator[bytes]:
    """Row by row, in the order of the items; an item with an error is a row of NaN."""
    import numpy

    nothing = numpy.full(dimension, numpy.nan, "<f4").tobytes()
    for record in store.records():
        vector = msgspec.json.decode(record).get("embedding")
        yield base64.b64decode(vector) if vector else nothing


def _with_list(record: bytes) -> bytes:
    item = msgspec.json.decode(record)
    if "embedding" in item:
        item["embedding"] = [float(f"{number:.7g}") for number in unpacked(item["embedding"]).tolist()]
    return msgspec.json.encode(item)


def _without(record: bytes) -> bytes:
    return msgspec.json.encode({name: value for name, value in msgspec.json.decode(record).items() if name != "embedding"})
