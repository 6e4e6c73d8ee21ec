"""One log line or metric point, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mloc.services.intake.commands.output import printable


def line_text(point: Mapping[str, Any], before: str = "") -> str:
    """Of a point as the API shows it; empty where there is nothing to say: how many rows are done stands in a line of its own, too, and often
    what a step of a training came to. `before`: what was said of the task last."""
    dropped = f"({point['dropped']} lines dropped) " if point.get("dropped") else ""
    if point.get("line"):
        return dropped + printable(point["line"])
    if "rows" in point.get("metrics", {}) and not dropped:
        return ""
    step, total = point.get("step"), point.get("total_steps")
    told = f"step {step}" + (f"/{total}" if total else "") if step else ""
    if told and not dropped and f"{before} ".startswith(f"{told} "):
        return ""
    return dropped + " ".join(part for part in (told, *(f"{name}={value:.4g}" for name, value in point.get("metrics", {}).items())) if part)
