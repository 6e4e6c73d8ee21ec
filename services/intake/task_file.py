"""Reading what a person names on the command line: a file, standard input, a template."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

from msgspec import Struct

from mloc.core.language.errors import did_you_mean
from mloc.core.language.yaml_source import MAX_TEXT_BYTES

TEMPLATES = Path(__file__).parents[2] / "templates"
LAYERS = ("core", "experiments")
"""How tasks are put together, and what runs of itself; then kinds of work that need more, or that are tried."""
SUFFIXES = (".yaml", ".yml", ".json")


class TaskFileError(Exception):
    """The file cannot be read; the message names it and says what to do."""


class TaskFile(Struct, frozen=True):
    """The text of one file; `folder` is where its relative paths start."""

    source: str
    text: bytes
    folder: Path


def files_of(name: str) -> list[str]:
    """The names of all task files of a folder; any other name as it is. Raises TaskFileError."""
    path = Path(name)
    if name == "-" or not path.is_dir():
        return [name]
    try:
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    except OSError as error:
        raise TaskFileError(f"{name} cannot be read: {error.strerror}") from error
    if not files:
        raise TaskFileError(f"{name} is a folder without task files ({', '.join(SUFFIXES)})")
    return [str(file) for file in files]


def read_named(name: str) -> TaskFile:
    """The file, or standard input for `-`. Raises TaskFileError."""
    if name == "-":
        return TaskFile("<stdin>", sys.stdin.buffer.read(MAX_TEXT_BYTES + 1), Path.cwd())
    return read_file(Path(name))


def read_file(path: Path) -> TaskFile:
    """Raises TaskFileError."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise TaskFileError(f"{path} is a folder, not a file")
        if status.st_size > MAX_TEXT_BYTES:
            raise TaskFileError(
                f"{path} is {status.st_size:,} bytes long, a task file at most {MAX_TEXT_BYTES:,}: "
                "put its data into a jsonl file and name it under data.jsonl"
            )
        with path.open("rb") as opened:
            return TaskFile(str(path), opened.read(MAX_TEXT_BYTES + 1), path.resolve().parent)
    except FileNotFoundError as error:
        raise TaskFileError(f"{path} is not there{_nearest(path)}") from error
    except OSError as error:
        raise TaskFileError(f"{path} cannot be read: {error.strerror}") from error


def templates() -> dict[str, Path]:
    """The pipelines that come with MLOC, by name: those of the first layer first."""
    return {file.stem: file for layer in LAYERS for file in sorted((TEMPLATES / layer).glob("*.yaml"))}


def layer_of(template: Path) -> str:
    """The name of the folder that a template is in."""
    return template.parent.name


def read_template(name: str) -> TaskFile:
    """Raises TaskFileError."""
    known = templates()
    if name not in known:
        hint = did_you_mean(name, known) or f"the templates are: {', '.join(known) or 'none'}"
        raise TaskFileError(f"there is no template {name!r}; {hint}")
    return read_file(known[name])


def title_of(template: Path) -> str:
    """The first sentence of the comment on its first line, as a title."""
    with template.open(encoding="utf-8") as lines:
        first = lines.readline().strip()
    return first.lstrip("# ").partition(". ")[0].rstrip(".:") if first.startswith("#") else ""


def _nearest(path: Path) -> str:
    """A hint where the same name with another ending is there."""
    others = [path.with_suffix(suffix).name for suffix in SUFFIXES if path.with_suffix(suffix).is_file()]
    return f"; did you mean {others[0]}?" if others else ""
