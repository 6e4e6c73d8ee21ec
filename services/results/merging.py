"""Join the results of a task's shards: items in the order of the input, usage summed, and what else they say as `merged_members` has it.

Rows are copied one by one where shards have them in lines of their own; of others one shard's result is in memory at a time. The joined one
is in memory only while it is small.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from mloc.core.events import INLINE_RESULT_BYTES
from mloc.core.language.data_spec import JsonlExport
from mloc.core.usage import total
from mloc.services.durable_files import sync_folder, write_durably
from mloc.services.results.export import Export
from mloc.services.results.folders import MANIFEST_FILE, RESULT_FILE
from mloc.services.results.manifest import Origin, files_in, manifest_of
from mloc.services.results.merged_members import Said, merged_members
from mloc.services.results.row_lines import BEGIN, is_row_lines, rows_of

MANY_ITEMS = 512  # joined to one chunk
_INDEX = re.compile(rb'\{"index":\d+')


class Part(Struct, frozen=True, gc=False):
    """One shard's result: inline, or else the `responses.json` of its folder below RESULTS_DIR."""

    task: str
    folder: str
    result: bytes = b""


class Merge(Struct, frozen=True, tag=True, gc=False):
    """Join the parts, in order, to the result of `origin`'s task in `folder`, below RESULTS_DIR."""

    origin: Origin
    folder: str
    parts: tuple[Part, ...]
    export: JsonlExport | None = None  # also write the rows as a training set


class Merged(Struct, frozen=True, tag=True, gc=False):
    """`result` when it is small. `files`: its folder is complete, with manifest; else nothing was written."""

    result: bytes
    sha256: str
    size_bytes: int
    files: bool


def merge(root: Path, order: Merge) -> Merged:
    """Raises OSError where a shard's result is not there or the joined one cannot be written, msgspec.MsgspecError for what is no result."""
    folder = root / order.folder
    chunks = _joined(root, order)
    head, is_whole = _first_bytes(chunks)
    if is_whole and order.export is None and not (folder / "shards").is_dir():
        return Merged(head, hashlib.sha256(head).hexdigest(), len(head), files=False)
    sha256, size = write_durably(folder / RESULT_FILE, _continued(head, chunks))
    write_durably(folder / MANIFEST_FILE, [manifest_of(order.origin, files_in(folder), ok=True, folder=folder)])
    sync_folder(folder.parent)
    return Merged(head if is_whole else b"", sha256, size, files=True)


def _first_bytes(chunks: Iterator[bytes]) -> tuple[bytes, bool]:
    """What fits into an event, or a little more; and whether that is all."""
    head = bytearray()
    for chunk in chunks:
        head += chunk
        if len(head) > INLINE_RESULT_BYTES:
            return bytes(head), False
    return bytes(head), True


def _continued(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


def _joined(root: Path, order: Merge) -> Iterator[bytes]:
    """The joined result as JSON: the items come as they are read; what is known only at the end comes after them."""
    usages: list[dict[str, Any]] = []
    shards: list[Said] = []
    position, ok = 0, True
    export = Export(root, order.folder, order.origin.task, order.export) if order.export is not None else None
    yield b"{" + BEGIN + b"\n"
    for part in order.parts:
        fields: dict[str, Any] = {}
        first = position
        for chunk, count in _renumbered(_tapped(_items(root, part, fields), export), position):
            yield chunk
            position += count
        ok &= bytes(fields.pop("ok", b"true")) != b"false"
        usages.append(_object(fields.pop("usage", None)))
        shards.append(Said(root / part.folder, position - first, {name: bytes(value) for name, value in fields.items()}))
        fields.clear()
    yield b"\n]"
    for name, value in merged_members(shards, root / order.folder).items():
        yield b"," + msgspec.json.encode(name) + b":" + msgspec.json.encode(value)
    if export is not None:
        yield b',"jsonl_export":' + msgspec.json.encode(export.finish())
    yield b',"usage":' + msgspec.json.encode(total(usages)) + b',"ok":' + (b"true" if ok else b"false") + b"}"


def _items(root: Path, part: Part, fields: dict[str, Any]) -> Iterator[bytes]:
    """A shard's items; after the last one its other members are in `fields`, not decoded further."""
    path = root / part.folder / RESULT_FILE
    if not part.result and is_row_lines(path):
        yield from rows_of(path, fields)
        return
    # the members refer to the file's pages rather than to copies
    fields.update(msgspec.json.decode(part.result or _pages(path), type=dict[str, Raw]))
    if (items := fields.pop("items", None)) is not None:
        yield from map(bytes, msgspec.json.decode(items, type=list[Raw]))


def _pages(path: Path) -> memoryview:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    except ValueError as error:  # an empty file
        raise OSError(f"{path} is empty") from error
    finally:
        os.close(descriptor)


def _tapped(items: Iterable[bytes], export: Export | None) -> Iterable[bytes]:
    return items if export is None else map(export.take, items)


def _renumbered(items: Iterable[bytes], start: int) -> Iterator[tuple[bytes, int]]:
    """The items as the inside of a JSON list, with their index in the whole; in chunks, each with its number of items."""
    batch: list[bytes] = []
    position = start
    for item in items:
        batch.append(_with_index(item, position))
        position += 1
        if len(batch) == MANY_ITEMS:
            yield _list_inside(batch, position - len(batch)), len(batch)
            batch = []
    if batch:
        yield _list_inside(batch, position - len(batch)), len(batch)


def _list_inside(items: list[bytes], position: int) -> bytes:
    return (b",\n" if position else b"") + b",\n".join(items)


def _with_index(item: bytes, index: int) -> bytes:
    if found := _INDEX.match(item):
        return b'{"index":%d' % index + item[found.end() :]
    fields = msgspec.json.decode(item, type=dict[str, Raw]) if item.startswith(b"{") else None
    return item if fields is None else msgspec.json.encode({"index": index, **{name: raw for name, raw in fields.items() if name != "index"}})


def _object(value: Raw | None) -> dict[str, Any]:
    decoded = msgspec.json.decode(value) if value is not None else None
    return decoded if isinstance(decoded, dict) else {}
