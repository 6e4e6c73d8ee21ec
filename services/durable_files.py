"""Files and names that survive a power cut before anybody is told of them: written, synced, renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_durably(path: Path, chunks: Iterable[bytes]) -> tuple[str, int]:
    """Write one file that appears whole or not at all, also over an older one. Returns (sha256 in hex, size in bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with staged(path) as partial, partial.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return digest.hexdigest(), size


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Where to write what takes the name `path` at the end, over an older file; where that goes wrong nothing is left of it."""
    partial = partial_of(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """A name beside `path` for what is not whole yet; each thread that writes the same file has another."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")


def copy_durably(source: Path, target: Path) -> None:
    """A copy that may be seen before it is whole."""
    shutil.copyfile(source, target)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: str, content: bytes) -> None:
    """Write one file that appears whole or not at all to whoever reads it now; it may not survive a power cut."""
    partial = f"{path}.{os.getpid()}.{threading.get_ident()}.partial"
    write_file(partial, content)
    os.replace(partial, path)


def write_file(path: str, content: bytes) -> None:
    """As few system calls as a file takes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        written = os.write(descriptor, content)
        while written < len(content):
            written += os.write(descriptor, content[written:])
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
