"""Tables written row by row: CSV and JSON lines here, Parquet by a process that has pyarrow, which the control plane has not."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from mloc.services.exports.columns import Columns

NO_PYARROW = 3  # exit code of the writer of Parquet where the library is missing


class ExportFailed(Exception):
    """An export that cannot be written; the message says why and what to do."""


class Table:
    """`with Table(folder, "items", ITEMS, "csv") as table: table.write(row)`; closing it raises ExportFailed where the file is not whole."""

    def __init__(self, folder: Path, name: str, columns: Columns, format: str) -> None:
        self.rows = 0
        self._format = format
        self._columns = columns
        self.file = folder / f"{name}.{'jsonl' if format == 'json' else format}"
        if format == "parquet":
            self._writer = _parquet_writer(self.file, columns)
        else:
            self._text = self.file.open("w", encoding="utf-8", newline="")
        if format == "csv":
            self._csv = csv.DictWriter(self._text, list(columns))
            self._csv.writeheader()

    def write(self, row: dict[str, Any]) -> None:
        self.rows += 1
        if self._format == "csv":
            self._csv.writerow(row)
            return
        line = msgspec.json.encode(row) + b"\n"
        if self._format == "json":
            self._text.write(line.decode())
            return
        assert self._writer.stdin is not None
        try:
            self._writer.stdin.write(line)
        except BrokenPipeError as error:
            raise self._failure() from error

    def __enter__(self) -> Table:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._format != "parquet":
            self._text.close()
            return
        if error is not None:
            self._writer.kill()
            self._writer.wait()
            return
        assert self._writer.stdin is not None
        try:
            self._writer.stdin.close()
        except BrokenPipeError as broken:
            raise self._failure() from broken
        if self._writer.wait() != 0:
            raise self._failure()

    def _failure(self) -> ExportFailed:
        code = self._writer.wait()
        if code == NO_PYARROW:
            return ExportFailed("Parquet needs pyarrow, which is not installed here: pip install 'mloc[training]', or use --format csv or json")
        assert self._writer.stderr is not None
        said = self._writer.stderr.read().decode(errors="replace").strip().splitlines()
        return ExportFailed(f"{self.file.name} could not be written: {said[-1] if said else f'its writer ended with {code}'}")


def _parquet_writer(file: Path, columns: Columns) -> subprocess.Popen[bytes]:
    kinds = msgspec.json.encode({name: kind.__name__ for name, kind in columns.items()}).decode()
    command = (sys.executable, "-m", "mloc.executors.rows.parquet_table", str(file), kinds)
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
