"""A task's result for an export: its members, and its rows one by one, so that a million of them take no more memory than one."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from mloc.services.exports.tables import ExportFailed
from mloc.services.intake.commands.source import Source, View
from mloc.services.results.row_lines import is_row_lines, rows_of, without_rows

Opened = tuple[View, Iterable[Any] | None]  # the members without the items, and these; None where it has none


@contextlib.asynccontextmanager
async def opened_result(source: Source, view: View) -> AsyncIterator[Opened]:
    """({}, None) for a task without a result, or one that is no JSON object. While the rows are read, ExportFailed is raised where they break off."""
    if view["state"] != "published":
        yield {}, None
    elif await source.large_result(view["task_id"]):
        with tempfile.TemporaryDirectory(prefix="mloc-export-") as folder:
            path = Path(folder) / "responses.json"
            with path.open("wb") as stored:
                await source.copy_result(view["task_id"], stored)
            yield _of_file(path, view["task_id"])
    else:
        yield _of_text(await source.result(view["task_id"]) or b"{}")


def _of_file(path: Path, task: str) -> Opened:
    if not is_row_lines(path):  # written by something else, and one line
        return _of_text(path.read_bytes())
    try:
        members = {name: msgspec.json.decode(value) for name, value in without_rows(path).items()}
    except msgspec.DecodeError as error:
        raise _broken(task, error) from error
    return members, _rows(path, task)


def _rows(path: Path, task: str) -> Iterator[Any]:
    try:
        for row in rows_of(path, {}):
            yield msgspec.json.decode(row)
    except msgspec.DecodeError as error:
        raise _broken(task, error) from error


def _of_text(text: bytes) -> Opened:
    with contextlib.suppress(msgspec.DecodeError):
        value = msgspec.json.decode(text)
        if isinstance(value, dict):
            items = value.pop("items", None)
            return value, items if isinstance(items, list) else None
    return {}, None


def _broken(task: str, error: msgspec.DecodeError) -> ExportFailed:
    return ExportFailed(f"the result of {task} cannot be read to its end ({error}): leave the task out with a filter")
