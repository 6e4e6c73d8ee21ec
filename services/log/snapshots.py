"""Snapshots of a fold's state on disk: a cache that saves folding from the start, never the truth.

    <folder>/<service>/<id>.snapshot = one line of JSON (the header), then the body, zstd

`id` is the log entry that was folded last. A snapshot that is damaged, of another fold version or of another log is passed over for the one
before it. Writing is atomic: a temporary file, synced, renamed, its folder synced.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog
import zstandard

from mloc.core import log_ids
from mloc.services.durable_files import sync_folder

FORMAT = 1
KEPT = 3
LEVEL = 3
LARGEST_HEADER = 64 * 1024
ABANDONED_SEC = 3600
_log = structlog.get_logger("snapshots")


class SnapshotError(Exception):
    """A snapshot cannot be read or written; the message says which and why."""


class Header(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    service: str
    id: str  # of the entry that was folded last
    log_id: str
    entry_sha256: str  # of that entry's payload: a log that lost its tail has another one there, or none
    state_digest: str
    body_sha256: str  # of the body as it was given, before compression
    fold_version: int = 1
    format: int = FORMAT


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    header: Header
    body: bytes


_decode_header = msgspec.json.Decoder(Header).decode


def write(
    folder: Path, service: str, body: bytes, *, id: str, log_id: str, entry_sha256: str, state_digest: str, fold_version: int = 1
) -> Path:
    """Write the state at entry `id` and remove all but the newest 3. Raises SnapshotError (disk full, not writable)."""
    log_ids.key(id)  # raises ValueError
    header = Header(service, id, log_id, entry_sha256, state_digest, hashlib.sha256(body).hexdigest(), fold_version)
    path = folder / service / f"{id}.snapshot"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(header) + b"\n")
            file.write(zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(body))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
        _remove_old(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise SnapshotError(f"the snapshot {path} cannot be written: {error.strerror or error}") from error
    return path


def read(path: Path) -> Snapshot:
    """Raises SnapshotError where the file is not what was written."""
    try:
        with path.open("rb") as file:
            first = file.readline(LARGEST_HEADER)
            packed = file.read()
        header = _decode_header(first)
        if header.format != FORMAT:
            raise SnapshotError(f"the snapshot {path} has format {header.format}, this program reads {FORMAT}")
        body = zstandard.ZstdDecompressor().decompress(packed)
    except OSError as error:
        raise SnapshotError(f"the snapshot {path} cannot be read: {error.strerror or error}") from error
    except (msgspec.MsgspecError, zstandard.ZstdError) as error:
        raise SnapshotError(f"the snapshot {path} is damaged: {error}") from error
    if hashlib.sha256(body).hexdigest() != header.body_sha256 or path.name != f"{header.id}.snapshot":
        raise SnapshotError(f"the snapshot {path} is damaged: its content is not what its header says")
    return Snapshot(header, body)


def newest_good(folder: Path, service: str, *, fold_version: int | None = None, log_id: str = "", not_after: str = "") -> Snapshot | None:
    """The first of `good_ones`."""
    return next(good_ones(folder, service, fold_version=fold_version, log_id=log_id, not_after=not_after), None)


def good_ones(
    folder: Path, service: str, *, fold_version: int | None = None, log_id: str = "", not_after: str = ""
) -> Iterator[Snapshot]:
    """Snapshots that can be read (and are of this fold version, of this log, at this entry or before), newest first; bad ones are reported."""
    for path in newest_first(folder / service):
        if not_after and log_ids.before(not_after, path.stem):
            continue
        try:
            snapshot = read(path)
        except SnapshotError as error:
            _log.warning("a snapshot is passed over", service=service, reason=str(error))
            continue
        header = snapshot.header
        if fold_version is not None and header.fold_version != fold_version:
            _log.info("a snapshot of another fold version is passed over", service=service, path=str(path), fold_version=header.fold_version)
        elif log_id and header.log_id != log_id:
            _log.warning("a snapshot of another log is passed over", service=service, path=str(path))
        else:
            yield snapshot


def newest_first(folder: Path) -> Iterator[Path]:
    """Snapshot files of one service, by the id of their entry."""
    yield from sorted((path for path in folder.glob("*.snapshot") if _is_id(path.stem)), key=lambda path: log_ids.key(path.stem), reverse=True)


def _remove_old(newest: Path) -> None:
    """All but the newest 3, and what crashed writers left behind."""
    for path in list(newest_first(newest.parent))[KEPT:]:
        path.unlink(missing_ok=True)
    written = newest.stat().st_mtime
    for path in newest.parent.glob("*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < written - ABANDONED_SEC:
                path.unlink()


def _is_id(text: str) -> bool:
    milliseconds, _, sequence = text.partition("-")
    return milliseconds.isdigit() and sequence.isdigit()
