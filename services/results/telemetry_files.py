"""A task's telemetry as files of its result: log lines for people, points for programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from mloc.core import log_ids
from mloc.services.log.event_log import TelemetryPoint

PAGE = 500

_encode = msgspec.json.Encoder().encode


def telemetry_files(points: Sequence[tuple[str, TelemetryPoint]], prefix: str = "") -> list[tuple[str, bytes]]:
    """(name, content) of `task.log` and `metrics.jsonl`, each only where there is something to write."""
    lines: list[str] = []
    numbers: list[bytes] = []
    for id, point in points:
        time_ms = log_ids.time_ms(id)
        shown = f"{datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec='milliseconds')} [{point.attempt}]"
        if point.dropped:
            lines.append(f"{shown} … {point.dropped} lines left out\n")
        if point.line:
            lines.append(f"{shown} {point.line}\n")
        if point.metrics or point.step:
            values = {"time_ms": time_ms, "attempt": point.attempt, "step": point.step, "total_steps": point.total_steps, **point.metrics}
            numbers.append(_encode(values) + b"\n")
    files = [(f"{prefix}task.log", "".join(lines).encode())] if lines else []
    return [*files, (f"{prefix}metrics.jsonl", b"".join(numbers))] if numbers else files
