"""Files of vectors (NumPy's format, version 1, float32) put behind each other as one. Of a file no more than a chunk is in memory."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from mloc.services.durable_files import write_durably

_MAGIC = b"\x93NUMPY\x01\x00"
_ALIGNED = 64  # bytes of the header are a multiple of this
_CHUNK = 1024 * 1024
_BYTES_A_NUMBER = 4


class Vectors(Struct, frozen=True):
    """A file: `start` is where its numbers begin."""

    path: Path
    start: int
    rows: int
    dimension: int


def join_vectors(parts: Sequence[Path], to: Path) -> tuple[int, int]:
    """Write all rows of the parts, in order, as the file `to`; gives (rows, dimension). Raises OSError for a part that is no such file."""
    found = [_read_header(path) for path in parts]
    dimensions = {part.dimension for part in found}
    if len(dimensions) != 1:
        raise OSError(f"the vectors in {parts[0].parent} and the other parts are of different lengths: {sorted(dimensions)}")
    rows, dimension = sum(part.rows for part in found), dimensions.pop()
    write_durably(to, _file(found, rows, dimension))
    return rows, dimension


def _read_header(path: Path) -> Vectors:
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise OSError(f"{path} is no file of vectors")
        length = int.from_bytes(file.read(2), "little")
        try:
            told: Any = ast.literal_eval(file.read(length).decode("latin-1").strip())
            rows, dimension = told["shape"]
            is_known = told["descr"] == "<f4" and not told["fortran_order"]
        except (ValueError, SyntaxError, KeyError, TypeError) as error:
            raise OSError(f"{path} is no file of vectors: {error}") from error
    start = len(_MAGIC) + 2 + length
    if not is_known or path.stat().st_size != start + rows * dimension * _BYTES_A_NUMBER:
        raise OSError(f"{path} is damaged, or holds no float32 vectors")
    return Vectors(path, start, rows, dimension)


def _file(parts: Iterable[Vectors], rows: int, dimension: int) -> Iterator[bytes]:
    told = repr({"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}).encode()
    length = -(len(_MAGIC) + 2 + len(told) + 1) % _ALIGNED + len(told) + 1
    yield _MAGIC + length.to_bytes(2, "little") + told.ljust(length - 1) + b"\n"
    for part in parts:
        with part.path.open("rb") as file:
            file.seek(part.start)
            while chunk := file.read(_CHUNK):
                yield chunk
