"""The two tables of an export, a row a task and a row an item of a result. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

View = dict[str, Any]
Columns = dict[str, type]

TASKS: Columns = {
    "task_id": str, "name": str, "kind": str, "task_type": str, "state": str, "owner": str, "project": str, "labels": str, "parent": str,
    "stage": str, "worker_id": str, "attempts": int, "submitted_at": str, "started_at": str, "ended_at": str, "reason": str,
    "error_type": str, "error_message": str, "model": str, "items": int, "prompt_tokens": int, "completion_tokens": int, "total_tokens": int,
    "latency_sec": float, "training": str, "final_model_path": str, "final_lora_path": str,
}  # fmt: skip
ITEMS: Columns = {
    "task_id": str, "name": str, "model": str, "index": int, "prompt": str, "output": str, "finish_reason": str, "error_type": str,
    "error_message": str, "metadata": str, "more": str,
}  # fmt: skip
"""`metadata` and `more` (whatever else an item holds) are JSON."""


def task_row(view: View, result: View, items: int | None) -> View:
    """A row of TASKS; `result` is {} for a task without one, `items` the number of its rows."""
    usage, error = _mapping(result.get("usage")), view["error"] or {}
    row = {name: view.get(name) for name in TASKS} | {
        "labels": _json(view["labels"]) if view["labels"] else "",
        "error_type": error.get("type"), "error_message": error.get("message"), "model": result.get("model"),
        "items": items,
        **{name: usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens", "latency_sec")},
        "training": _json(result["training"]) if result.get("training") else "",
        "final_model_path": result.get("final_model_path"), "final_lora_path": result.get("final_lora_path"),
    }  # fmt: skip
    return {name: _typed(row[name], kind) for name, kind in TASKS.items()}


def item_row(view: View, model: Any, index: int, item: Any) -> View:
    """A row of ITEMS for the item at `index` of a result."""
    item = item if isinstance(item, dict) else {"output": item}
    error = _mapping(item.get("error"))
    rest = {name: value for name, value in item.items() if name not in ("index", "prompt", "output", "finish_reason", "error", "metadata")}
    row = {
        "task_id": view["task_id"], "name": view["name"], "model": model, "index": item.get("index", index),
        "prompt": item.get("prompt"), "output": item.get("output"), "finish_reason": item.get("finish_reason"),
        "error_type": error.get("type"), "error_message": error.get("message"),
        "metadata": _json(item["metadata"]) if item.get("metadata") else "", "more": _json(rest) if rest else "",
    }  # fmt: skip
    return {name: _typed(row[name], kind) for name, kind in ITEMS.items()}


def _typed(value: Any, kind: type) -> Any:
    """The value as its column holds it; None for what is absent or does not fit."""
    if value is None or value == "":
        return None
    if kind is str:
        return value if isinstance(value, str) else _json(value)
    return kind(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _mapping(value: Any) -> View:
    return value if isinstance(value, dict) else {}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
