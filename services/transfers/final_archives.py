"""What a training's result says of its weights besides where they lie: an archive of them, made once, and the URL that it has behind the API.

The archive costs time and disk, so it is made where it was asked for (`output.artifacts`), where the result goes elsewhere (an http
destination), and where others have no other way to the weights than over HTTP (a results folder that is not shared).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from mloc.services.artifacts.packing import pack
from mloc.services.durable_files import write_durably
from mloc.services.results.folders import ARTIFACTS, RESULT_FILE
from mloc.services.results.manifest import ARCHIVES
from mloc.services.results.row_lines import is_row_lines, with_members, without_rows

FINAL = {name: archive for key, archive in ARCHIVES.items() if (name := key.removesuffix("_archive"))}  # weights → their archive
MOST_RESULT_BYTES = 64 << 20  # of a result without lines that is read for this

UrlOf = Callable[[str], str]


class Delivered(Struct, frozen=True):
    """A result as it stands in the attempt's folder."""

    sha256: str
    size_bytes: int


def add_archives(
    folder: Path, final_folder: str, declared: tuple[str, ...], url_of: UrlOf | None, *, always: bool, there: str = ""
) -> Delivered | None:
    """Make what is wanted and say so in `responses.json`; None where nothing changed. Blocks.

    `url_of` gives the URL that a file of the result will have, by its name in there; `there` is the folder that others
    will find the result in, where that is not `final_folder`. Raises OSError, ArchiveRefused, and msgspec.MsgspecError
    where the result is no JSON object.
    """
    result = _members_of(folder / RESULT_FILE)
    if result is None:
        return None
    more: dict[str, Any] = {}
    for name in FINAL:
        weights = folder / ARTIFACTS / name
        if f"{name}_path" in result and weights.is_dir() and (always or _is_declared(name, declared)):
            archive = f"{ARTIFACTS}/{FINAL[name]}"
            if not (folder / archive).is_file():
                pack(weights, folder / archive)
            more[f"{name}_archive"] = f"{final_folder}/{archive}"
            if url_of is not None:
                more[f"{name}_archive_url"] = url_of(archive)
    export = result.get("jsonl_export")
    if isinstance(export, dict) and str(export.get("path", "")).startswith(f"{final_folder}/"):
        name = export["path"].removeprefix(f"{final_folder}/")
        url = {} if url_of is None else {"url": url_of(name)}
        more["jsonl_export"] = {**export, "path": f"{there or final_folder}/{name}", **url}
    return _with(folder / RESULT_FILE, result, more)


def add_to_result(folder: Path, more: dict[str, Any]) -> Delivered | None:
    """Say more in `responses.json`. Blocks. Raises OSError, msgspec.MsgspecError."""
    result = _members_of(folder / RESULT_FILE)
    return None if result is None else _with(folder / RESULT_FILE, result, more)


def _members_of(path: Path) -> dict[str, Any] | None:
    """Of a result, without its rows where they have lines of their own; None where there is none, or it is too large to look at."""
    if not path.is_file():
        return None
    if is_row_lines(path):
        return {name: msgspec.json.decode(value) for name, value in without_rows(path).items()}
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Any]) if path.stat().st_size <= MOST_RESULT_BYTES else None


def _with(path: Path, result: dict[str, Any], more: dict[str, Any]) -> Delivered | None:
    """Rows keep their lines: whoever reads the result next holds one of them at a time."""
    if all(result.get(name) == value for name, value in more.items()):
        return None
    changed = with_members(path, more) if is_row_lines(path) else [msgspec.json.encode({**result, **more})]
    return Delivered(*write_durably(path, changed))


def files_to_deliver(folder: Path) -> list[tuple[str, Path]]:
    """(name, file) of everything in an attempt's folder; the result itself last. Hidden names are nobody's artifacts."""
    found = [(path.relative_to(folder), path) for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    shown = [(name.as_posix(), path) for name, path in found if not any(part.startswith(".") for part in name.parts)]
    return sorted(shown, key=lambda file: file[0] == RESULT_FILE)


def forget_folder(folder: Path) -> None:
    """Others have it now."""
    shutil.rmtree(folder, ignore_errors=True)


def _is_declared(name: str, declared: tuple[str, ...]) -> bool:
    return any(wish == f"{name}_archive" or fnmatchcase(FINAL[name], wish.removeprefix(f"{ARTIFACTS}/")) for wish in declared)
