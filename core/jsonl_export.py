"""A row of an inference result as a row of a training set (`postprocess.jsonl_export`)."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from mloc.core.language.data_spec import ExportField, JsonlExport

BY_DEFAULT = {"prompt": ExportField(source="prompt"), "response": ExportField(source="output")}  # the names that `data.jsonl` reads

_encode = msgspec.json.Encoder().encode


class ExportCounts(Struct):
    """What became of the rows: `skipped` had no answer, or lacked a required field."""

    rows: int = 0
    skipped: int = 0


def export_line(export: JsonlExport, item: Any, counts: ExportCounts) -> bytes:
    """The exported row as a line of JSON; empty for one that is skipped. Counts it."""
    row = _row_of(export, item) if isinstance(item, dict) and item.get("error") is None else None
    if row is None or any(row.get(name) in (None, "", [], {}) for name in export.required_fields):
        counts.skipped += 1
        return b""
    counts.rows += 1
    return _encode(row) + b"\n"


def export_summary(export_path: str, task: str, file: str, counts: ExportCounts) -> dict[str, Any]:
    """What the result says of the export. `file` is its name below the result's folder; `url` is its place on the API."""
    return {"path": export_path, "url": f"/api/v1/results/{task}/files/{file}", "rows": counts.rows, "skipped": counts.skipped}


def export_file(export: JsonlExport) -> str:
    """Name of the file below the result's folder. Raises ValueError for a path that leads out of the artifacts."""
    parts = [part for part in export.path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or export.path.startswith("/"):
        raise ValueError(f"postprocess.jsonl_export.path {export.path!r} does not lie below the task's artifacts")
    return "/".join(["artifacts", *parts])


def _row_of(export: JsonlExport, item: dict[str, Any]) -> dict[str, Any]:
    return {name: _value(field, name, item) for name, field in (export.fields or BY_DEFAULT).items()}


def _value(field: ExportField, name: str, item: dict[str, Any]) -> Any:
    if field.source == "literal":
        return field.value
    if field.source == "metadata":
        metadata = item.get("metadata")
        return metadata.get(field.key or name) if isinstance(metadata, dict) else None
    return item.get(field.source)
