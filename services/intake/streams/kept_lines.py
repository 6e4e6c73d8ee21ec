"""Log lines and metric points that were kept with a result, read back from its tree: telemetry itself expires."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from mloc.services.intake.published_results import result_folder
from mloc.services.log.event_log import TelemetryPoint

_LINE = re.compile(r"(\d{4}-\S+) \[(\d+)\] (.*)")
_DROPPED = re.compile(r"… (\d+) lines left out")
_NOT_METRICS = frozenset({"time_ms", "attempt", "step", "total_steps"})


def kept_points(results_dir: Path, task: str) -> list[tuple[str, TelemetryPoint]]:
    """As telemetry: (id, point) in order of time. The ids hold the times; a shard's lines are in the tree of its parent."""
    parent, _, number = task.rpartition(".s")
    places = [(result_folder(results_dir, task), "")]
    if parent and number.isdigit():
        places.append((result_folder(results_dir, parent), f"s{number}-"))
    for folder, prefix in places:
        timed = [*_lines(folder / "logs" / f"{prefix}task.log"), *_metrics(folder / "logs" / f"{prefix}metrics.jsonl")]
        if timed:
            timed.sort(key=lambda one: one[0])
            return _numbered(timed)
    return []


def _lines(file: Path) -> list[tuple[int, TelemetryPoint]]:
    found: list[tuple[int, TelemetryPoint]] = []
    at_ms, dropped = 0, 0
    for text in _texts(file):
        attempt, line = 0, text
        if match := _LINE.fullmatch(text):
            try:
                at_ms = round(datetime.fromisoformat(match[1]).timestamp() * 1000)
                attempt, line = int(match[2]), match[3]
            except ValueError:
                line = text
        if left_out := _DROPPED.fullmatch(line):
            dropped = int(left_out[1])
            continue
        found.append((at_ms, TelemetryPoint(attempt, line=line, dropped=dropped)))
        dropped = 0
    return found


def _metrics(file: Path) -> list[tuple[int, TelemetryPoint]]:
    found = []
    for text in _texts(file):
        try:
            values: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
            metrics = {name: value for name, value in values.items() if name not in _NOT_METRICS}
            point = TelemetryPoint(values["attempt"], step=values["step"], total_steps=values["total_steps"], metrics=metrics)
            found.append((int(values["time_ms"]), point))
        except (msgspec.MsgspecError, KeyError, ValueError):
            continue  # the last line of a file that was cut off
    return found


def _texts(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").split("\n")[:-1]
    except OSError:
        return []


def _numbered(timed: list[tuple[int, TelemetryPoint]]) -> list[tuple[str, TelemetryPoint]]:
    numbered: list[tuple[str, TelemetryPoint]] = []
    before, sequence = -1, 0
    for at_ms, point in timed:
        sequence = sequence + 1 if at_ms == before else int(at_ms == 0)  # 0-0 is the start, not an entry
        before = at_ms
        numbered.append((f"{at_ms}-{sequence}", point))
    return numbered
