"""Files that tasks will name, uploaded before these are submitted: by content, kept while a task needs them, expiring where none ever names them.

    .inputs/<sha256>/<name>       a link to the content; a folder is an archive `<name>.folder.tar.zst`
    .inputs/<sha256>/.used-<task> this task was submitted, which names it; once it was only `.used`, which does not tell whose it is
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from mloc.services.results.folders import INPUTS, input_path

FOLDER_SUFFIX = ".folder.tar.zst"
_MARK = ".used"
_GOING = ".going-"
_PATH = re.compile(rf"/{re.escape(INPUTS)}/([0-9a-f]{{64}})/([^/\"\\]+)")


def named_in(path: str) -> tuple[str, str] | None:
    """(sha256, name) where a path, of whatever machine, is that of an input."""
    found = _PATH.search(path)
    return (found[1], found[2]) if found and found.end() == len(path) else None


def inputs_in(specs: Iterable[bytes]) -> set[str]:
    """sha256 of each input that encoded specs name."""
    trace = f"/{INPUTS}/".encode()
    return {sha256 for spec in specs if trace in spec for sha256, _ in _PATH.findall(spec.decode(errors="replace"))}


def keep(results_dir: Path, named: Iterable[tuple[str, str]]) -> None:
    """From now on tasks name these: (sha256, task). Raises OSError; one that is not there is not a mistake of the caller."""
    for sha256, task in named:
        with contextlib.suppress(FileNotFoundError):
            _mark(results_dir, sha256, task).touch()


def unkeep(results_dir: Path, named: Iterable[tuple[str, str]]) -> None:
    """These tasks were not submitted after all. Raises OSError."""
    for sha256, task in named:
        _mark(results_dir, sha256, task).unlink(missing_ok=True)


class Uploaded(Struct, frozen=True):
    """What lies under one sha256. `tasks` name it, "" one that is not known; `touched`: seconds since 1970."""

    sha256: str
    files: tuple[str, ...]
    tasks: frozenset[str]
    touched: float
    size_bytes: int


def uploaded(results_dir: Path) -> list[Uploaded]:
    """All inputs, in the order of their sha256. Raises OSError."""
    return [one for folder in sorted((results_dir / INPUTS).glob("?" * 64)) if (one := look_at(folder)) is not None]


def look_at(folder: Path) -> Uploaded | None:
    """None where it is gone."""
    files, tasks, touched, size = [], set(), 0.0, 0
    try:
        for entry in (folder, *folder.iterdir()):
            status = entry.stat()
            touched = max(touched, status.st_mtime)
            if entry.name.startswith(_MARK):
                tasks.add(entry.name.removeprefix(_MARK).removeprefix("-"))
            elif entry != folder:
                files.append(entry.name)
                size = status.st_size  # several names are links to one content
    except FileNotFoundError:
        return None
    return Uploaded(folder.name, tuple(sorted(files)), frozenset(tasks), touched, size)


def remove(results_dir: Path, seen: Uploaded) -> None:
    """Unless somebody has come back for it since it was looked at. Its content expires as a blob without a place. Raises OSError."""
    folder = results_dir / INPUTS / seen.sha256
    if look_at(folder) != seen:
        return
    going = folder.with_name(f"{_GOING}{seen.sha256}")
    shutil.rmtree(going, ignore_errors=True)  # of a cleanup that was cut off
    folder.rename(going)
    shutil.rmtree(going)


def _mark(results_dir: Path, sha256: str, task: str) -> Path:
    return results_dir / input_path(sha256, f"{_MARK}-{task}")


def expire(results_dir: Path, before: float) -> int:
    """Remove inputs that no task ever named and that nobody touched since `before` (seconds since 1970); gives their number."""
    number = 0
    for folder in (results_dir / INPUTS).glob("?" * 64):
        with contextlib.suppress(OSError):  # somebody else removes it, or has just come back for it
            files = [file for file in folder.iterdir()]
            if any(file.name.startswith(_MARK) for file in files) or any(file.stat().st_mtime >= before for file in (folder, *files)):
                continue
            for file in files:
                file.unlink()
                number += 1
            folder.rmdir()
    return number
