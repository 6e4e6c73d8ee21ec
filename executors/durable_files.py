"""Files that survive a power cut before anybody is told of them: written, synced, renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path


def write_durably(path: Path, chunks: Iterable[bytes]) -> tuple[str, int]:
    """Write the chunks as one file that appears whole or not at all. Returns (sha256 in hex, size in bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)
    return digest.hexdigest(), size


def sync_tree(root: Path) -> dict[str, str]:
    """Make every file below `root` durable, and the names that lead to it. Returns the sha256 of each, in hex, by its path below `root`."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            found[path.relative_to(root).as_posix()] = _sync_file(path)
    sync_folder(root)
    sync_folder(root.parent)
    return found


def link_or_copy(file: Path, to: Path) -> None:
    """The same content under another name; a file that is replaced later leaves the other as it was."""
    to.unlink(missing_ok=True)
    try:
        os.link(file, to)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, to)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
