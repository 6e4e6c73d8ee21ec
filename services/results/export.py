"""The training set that the rows of a merged result make, written while they pass by."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from mloc.core.jsonl_export import ExportCounts, export_file, export_line, export_summary
from mloc.core.language.data_spec import JsonlExport
from mloc.services.durable_files import partial_of, sync_folder


class Export:
    """`take` each item, then `finish`: the file is there, whole, after that."""

    def __init__(self, root: Path, folder: str, task: str, export: JsonlExport) -> None:
        """Raises OSError; a path that leads out of the artifacts is one."""
        try:
            self._name = export_file(export)
        except ValueError as error:
            raise OSError(str(error)) from error
        self._export, self._task = export, task
        self._path = root / folder / self._name
        self._partial = partial_of(self._path)
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._partial.open("wb")
        self._counts = ExportCounts()

    def take(self, item: bytes) -> bytes:
        """The item itself."""
        self._file.write(export_line(self._export, msgspec.json.decode(item), self._counts))
        return item

    def finish(self) -> dict[str, Any]:
        """What the result says of the export."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self._path)
        sync_folder(self._path.parent)
        return export_summary(str(self._path.resolve()), self._task, self._name, self._counts)
