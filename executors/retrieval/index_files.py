"""An index on disk: passages, their vectors, and a page that says what they are and vouches for them. It never changes once it is there.

    index.json     format, key, embedding, dimension, count, digests of the other two
    passages.jsonl a passage a line
    vectors.npy    float32 [passages, dimension]
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from mloc.core.language.inference_spec import Retrieval
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.durable_files import write_durably
from mloc.executors.pooling.vector_files import write_npy
from mloc.executors.retrieval.passages import Passage

PAGE, PASSAGES, VECTORS = "index.json", "passages.jsonl", "vectors.npy"
FORMAT = 1


class IndexPage(Struct, frozen=True):
    """What stands in `index.json`. `embedding` is the model's name, `identity` all that its vectors depend on."""

    key: str
    embedding: str
    identity: str
    dimension: int
    passages: int
    passages_sha256: str
    vectors_sha256: str
    format: int = FORMAT


class Index(Struct, frozen=True):
    """An index in memory; `vectors` float32 [passages, dimension]."""

    page: IndexPage
    passages: list[Passage]
    vectors: Any
    folder: Path | None = None

    @property
    def size_bytes(self) -> int:
        return int(self.vectors.nbytes) + sum(len(passage.text.encode()) for passage in self.passages)


def key_of(passages: Iterable[Passage], identity: str) -> str:
    """The same for the same passages and the same way of embedding them."""
    digest = hashlib.sha256(f"{FORMAT}\n{identity}\n".encode())
    for passage in passages:
        digest.update(msgspec.json.encode(passage, order="deterministic") + b"\n")
    return digest.hexdigest()


def write_index(folder: Path, key: str, embedding: str, identity: str, dimension: int, passages: list[Passage], vectors: Iterator[bytes]) -> None:
    """Write the three files durably, the page last: a folder with a page is whole."""
    digest, _ = write_durably(folder / PASSAGES, (msgspec.json.encode(passage) + b"\n" for passage in passages))
    of_vectors = write_npy(folder / VECTORS, len(passages), dimension, vectors)
    page = IndexPage(key, embedding, identity, dimension, len(passages), digest, of_vectors)
    write_durably(folder / PAGE, [msgspec.json.encode(page)])


def named_folder(retrieval: Retrieval, context: Context) -> Path:
    """The folder of the index that the task names, on this disk."""
    return Path(context.local(retrieval.index or "").removeprefix("file://")).expanduser()


def read_index(folder: Path) -> Index:
    """Raises ExecutorError where there is no index, or where its files are not what its page vouches for."""
    import numpy

    if not (folder / PAGE).is_file():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) if folder.is_dir() else "the folder is not there"
        raise ExecutorError("IndexNotFound", f"{folder} holds no index ({PAGE} is missing; {there or 'it is empty'})")
    try:
        page = msgspec.json.decode((folder / PAGE).read_bytes(), type=IndexPage)
        for name, sha256 in ((PASSAGES, page.passages_sha256), (VECTORS, page.vectors_sha256)):
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise ValueError(f"{name} is not the file that was written")
        with (folder / PASSAGES).open("rb") as file:
            passages = [msgspec.json.decode(line, type=Passage) for line in file]
        return Index(page, passages, numpy.load(folder / VECTORS, allow_pickle=False), folder)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        said = f"the index in {folder} is damaged ({error}); remove the folder, and give the task its documents to make it anew"
        raise ExecutorError("IndexDamaged", said) from error


def put_index(source: Path, target: Path) -> None:
    """The same index in a further folder: linked where the file system has links, since its files never change; the page last."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (PASSAGES, VECTORS, PAGE):
        partial = target / f".{name}.{os.getpid()}.partial"
        partial.unlink(missing_ok=True)
        try:
            os.link(source / name, partial)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source / name, partial)
        partial.replace(target / name)
        partial.unlink(missing_ok=True)  # rename does nothing where both are the same file already
