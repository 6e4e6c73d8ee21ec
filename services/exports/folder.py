"""Folders of exports, a new one each time: `exports/results/v0001`, `v0002`, …; one appears when it is whole."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mloc.services.artifacts.digests import file_sha256

MANIFEST = "manifest.json"
_VERSION = re.compile(r"v(\d{4,})")


@contextlib.contextmanager
def new_version(root: Path, about: dict[str, Any]) -> Iterator[tuple[Path, list[Path]]]:
    """A folder to write into, and the list that gets its final place; `about` and each file's size and digest become its manifest."""
    root.mkdir(parents=True, exist_ok=True)
    staged, place = root / f".partial-{os.getpid()}", list[Path]()
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        yield staged, place
        files = [{"path": file.name, "size": file.stat().st_size, "sha256": file_sha256(file)} for file in sorted(staged.iterdir())]
        (staged / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode({**about, "files": files})) + b"\n")
        place.append(_named(staged, root))
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _named(staged: Path, root: Path) -> Path:
    """The next number that nobody took meanwhile: renaming onto a folder that holds something fails. Raises OSError."""
    while True:
        taken = [int(found[1]) for path in root.iterdir() if (found := _VERSION.fullmatch(path.name))]
        final = root / f"v{max(taken, default=0) + 1:04}"
        try:
            return staged.rename(final)
        except OSError:
            if not final.exists():
                raise
