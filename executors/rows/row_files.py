"""Rows from a file of the worker's disk: jsonl, json, csv, parquet or plain text. What is wrong with one is said with its path and line."""

from __future__ import annotations

import csv
import importlib.resources
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from mloc.executors.contract import ExecutorError
from mloc.executors.rows.tables import Columns, Malformed, Table

LINES = (".jsonl", ".ndjson", ".txt")  # a row a line
READERS = (*LINES, ".json", ".csv", ".tsv", ".parquet")


def find_file(name: str) -> Path:
    """The file of that path: as it is, or else one of those that ship with the templates. Raises ExecutorError where there is none."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if not path.is_absolute():
        templates = Path(str(importlib.resources.files("mloc.templates")))
        for shipped in (templates / layer / name for layer in ("core", "experiments")):
            if shipped.is_file():
                return shipped
    found = f"{path.parent} has {', '.join(sorted(p.name for p in path.parent.iterdir())[:8])}" if path.parent.is_dir() else "nor is its folder"
    raise ExecutorError("FileNotFound", f"{name} is not on the worker's disk ({found}); give an absolute path that the worker sees")


def file_table(path: Path, separator: str | None = None) -> Table:
    """The file's rows. A line of jsonl that is no row is one that is malformed, in its place; any other fault raises ExecutorError."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_table(path)

    def read(start: int, stop: int | None) -> Iterator[Columns | Malformed]:
        if suffix in LINES:
            for number, line in islice(_lines(path), start, stop):
                yield {"text": line} if suffix == ".txt" else _row_of_line(path, number, line)
        else:
            yield from islice(read_rows(path, separator), start, stop)

    def count() -> int:
        return sum(1 for _ in (_lines(path) if suffix in LINES else read_rows(path, separator)))

    return Table(read, count)


def read_rows(path: Path, separator: str | None = None) -> Iterator[Columns]:
    """The file's rows as mappings of columns; a line of plain text is the column `text`. Raises ExecutorError where one is none."""
    match path.suffix.lower():
        case ".jsonl" | ".ndjson" | ".txt" | ".parquet":
            for row in file_table(path).read(0, None):
                yield _sound(row)
        case ".json":
            yield from _read_json(path)
        case ".csv":
            yield from _read_csv(path, separator or ",")
        case ".tsv":
            yield from _read_csv(path, separator or "\t")
        case _:
            raise ExecutorError("UnknownFormat", f"{path} is none of {', '.join(READERS)}")


def _lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """(number, text) of every line that is not empty; None for one that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                yield number, None
                continue
            if text:
                yield number, text


def _row_of_line(path: Path, number: int, line: str | None) -> Columns | Malformed:
    if line is None:
        return Malformed(f"{path}, line {number}: not UTF-8")
    try:
        row = msgspec.json.decode(line)
    except msgspec.MsgspecError as error:
        return Malformed(f"{path}, line {number}: not JSON ({error})")
    if not isinstance(row, dict):
        return Malformed(f"{path}, line {number}: expected an object like {{\"prompt\": …}}, found {type(row).__name__}")
    return row


def _sound(row: Columns | Malformed) -> Columns:
    return _bad(row.message) if isinstance(row, Malformed) else row


def _bad(message: str) -> NoReturn:
    raise ExecutorError("BadData", message)


def _read_json(path: Path) -> Iterator[Columns]:
    try:
        rows = msgspec.json.decode(path.read_bytes())
    except msgspec.MsgspecError as error:
        raise ExecutorError("BadData", f"{path}: not JSON ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        _bad(f"{path}: expected a list of objects")
    yield from rows


def _read_csv(path: Path, delimiter: str) -> Iterator[Columns]:
    if len(delimiter) != 1:
        raise ExecutorError("BadData", f"data.separator {delimiter!r}: a csv file's columns are parted by one character")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        try:
            for row in reader:
                if None in row or None in row.values():
                    _bad(f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} columns")
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ExecutorError("BadData", f"{path}, line {reader.line_num + 1}: {error}") from error


def _parquet_table(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ExecutorError("MissingDependency", 'parquet files need the library pyarrow: pip install "mloc[training]"') from error

    def opened() -> Any:
        try:
            return parquet.ParquetFile(path)
        except (ArrowException, OSError) as error:
            raise ExecutorError("BadData", f"{path}: not a parquet file ({error})") from error

    def read(start: int, stop: int | None) -> Iterator[Columns]:
        with opened() as file:
            rows = (row for batch in file.iter_batches(1024) for row in batch.to_pylist())
            yield from islice(rows, start, stop)

    def count() -> int:
        with opened() as file:
            return int(file.metadata.num_rows)

    return Table(read, count)
