"""Rows from a file of the worker's disk: jsonl, csv or plain text. What is wrong with one is said with its path and line."""

from __future__ import annotations

import csv
import importlib.resources
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mloc.executors.contract import ExecutorError

READERS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")


def find_file(name: str) -> Path:
    """The file of that path: as it is, or else one of those that ship with the templates. Raises ExecutorError where there is none."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if not path.is_absolute():
        shipped = Path(str(importlib.resources.files("mloc.templates"))) / name
        if shipped.is_file():
            return shipped
    found = f"{path.parent} has {', '.join(sorted(p.name for p in path.parent.iterdir())[:8])}" if path.parent.is_dir() else "nor is its folder"
    raise ExecutorError("FileNotFound", f"{name} is not on the worker's disk ({found}); give an absolute path that the worker sees")


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The file's rows as mappings of columns; a line of plain text is the column `text`."""
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            yield from _read_jsonl(path)
        case ".json":
            yield from _read_json(path)
        case ".csv":
            yield from _read_csv(path, ",")
        case ".tsv":
            yield from _read_csv(path, "\t")
        case ".txt":
            yield from ({"text": line} for _, line in _lines(path))
        case _:
            raise ExecutorError("UnknownFormat", f"{path} is none of {', '.join(READERS)}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ExecutorError("BadData", f"{path}, line {number}: not UTF-8 ({error.reason})") from error
            if text:
                yield number, text


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in _lines(path):
        try:
            row = msgspec.json.decode(line)
        except msgspec.MsgspecError as error:
            raise ExecutorError("BadData", f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ExecutorError("BadData", f"{path}, line {number}: expected an object like {{\"prompt\": …}}, found {type(row).__name__}")
        yield row


def _read_json(path: Path) -> Iterator[dict[str, Any]]:
    try:
        rows = msgspec.json.decode(path.read_bytes())
    except msgspec.MsgspecError as error:
        raise ExecutorError("BadData", f"{path}: not JSON ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ExecutorError("BadData", f"{path}: expected a list of objects")
    yield from rows


def _read_csv(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise ExecutorError("BadData", f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} columns")
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ExecutorError("BadData", f"{path}, line {reader.line_num + 1}: {error}") from error
