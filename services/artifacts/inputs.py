"""Files that tasks will name, uploaded before these are submitted: by content, kept from the first task on that names them, else expiring.

    .inputs/<sha256>/<name>       a link to the content; a folder is an archive `<name>.folder.tar.zst`
    .inputs/<sha256>/.used        a task was submitted that names it
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from mloc.services.results.folders import INPUTS, input_path

FOLDER_SUFFIX = ".folder.tar.zst"
_MARK = ".used"
_PATH = re.compile(rf"/{re.escape(INPUTS)}/([0-9a-f]{{64}})/([^/\"\\]+)")


def named_in(path: str) -> tuple[str, str] | None:
    """(sha256, name) where a path, of whatever machine, is that of an input."""
    found = _PATH.search(path)
    return (found[1], found[2]) if found and found.end() == len(path) else None


def inputs_in(specs: Iterable[bytes]) -> set[str]:
    """sha256 of each input that encoded specs name."""
    trace = f"/{INPUTS}/".encode()
    return {sha256 for spec in specs if trace in spec for sha256, _ in _PATH.findall(spec.decode(errors="replace"))}


def keep(results_dir: Path, inputs: Iterable[str]) -> None:
    """Tasks name these from now on. Raises OSError; one that is not there is not a mistake of the caller."""
    for sha256 in inputs:
        with contextlib.suppress(FileNotFoundError):
            (results_dir / input_path(sha256, _MARK)).touch()


def expire(results_dir: Path, before: float) -> int:
    """Remove inputs that no task ever named and that nobody touched since `before` (seconds since 1970); gives their number."""
    number = 0
    for folder in (results_dir / INPUTS).glob("?" * 64):
        with contextlib.suppress(OSError):  # somebody else removes it, or has just come back for it
            files = [file for file in folder.iterdir()]
            if (folder / _MARK) in files or any(file.stat().st_mtime >= before for file in (folder, *files)):
                continue
            for file in files:
                file.unlink()
                number += 1
            folder.rmdir()
    return number
