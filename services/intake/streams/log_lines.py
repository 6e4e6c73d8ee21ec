"""Log lines and metric points of a task and all its parts, in one order that is the same whenever they are read: by time, then by part.

    lines = LogLines(log, results_dir, root, after="")
    came = await lines.read(parts, clock_ms)      # what is final by now

A reader that was cut off goes on after the id of its last line. Lines of several parts are given out only when no earlier one can come any
more: when they are older than the server's clock was before they were read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from mloc.core import log_ids
from mloc.core.cluster import Cluster
from mloc.core.task import FINAL, Task
from mloc.services.intake.published_results import UnsafePath
from mloc.services.intake.streams.event_tail import just_before
from mloc.services.intake.streams.kept_lines import kept_points
from mloc.services.intake.task_query import QueryError
from mloc.services.intake.views import iso
from mloc.services.log.event_log import EventLog, TelemetryPoint

PAGE = 500

Key = tuple[tuple[int, int], str]


class Line(NamedTuple):
    """`key`: the id as numbers, then the part."""

    key: Key
    task: str
    point: TelemetryPoint

    @property
    def id(self) -> str:
        (ms, sequence), part = self.key
        return f"{ms}-{sequence}:{part}" if part else f"{ms}-{sequence}"

    def view(self) -> dict[str, Any]:
        return {"id": self.id, "at": iso(self.key[0][0]), "task_id": self.task, **msgspec.to_builtins(self.point)}


class LogLines:
    """`root` is a task or a pipeline; `after` the id of a line (or a time) behind which to begin. Raises QueryError for what is no id."""

    def __init__(self, log: EventLog, results_dir: Path, root: str, after: str = "") -> None:
        self._log = log
        self._results_dir = results_dir
        self._root = root
        self._start = _key_of(after) if after else ((0, 0), "")
        self.after: dict[str, str] = {}  # part → telemetry id up to which it was read
        self._kept: dict[str, list[tuple[str, TelemetryPoint]]] = {}  # lines of parts whose telemetry has expired
        self.caught_up = False  # whether the last `read` gave out all that there was

    async def read(self, parts: Sequence[str], clock_ms: int) -> list[Line]:
        """The next lines. `clock_ms`: the server's clock, read before `parts` was known. Raises LogUnavailable."""
        pages = await asyncio.gather(*(self._page(part) for part in parts))
        is_alone = len(parts) == 1
        limit: Key = ((2**63, 0), "") if is_alone else ((clock_ms, -1), "")
        for part, page in zip(parts, pages, strict=True):
            if len(page) >= PAGE:
                limit = min(limit, (log_ids.key(page[-1][0]), self._suffix(part)))
        lines = sorted(
            (Line((log_ids.key(id), self._suffix(part)), part, point) for part, page in zip(parts, pages, strict=True) for id, point in page),
            key=lambda line: line.key,
        )
        final = [line for line in lines if line.key <= limit]
        for line in final:
            (ms, sequence), _ = line.key
            self.after[line.task] = f"{ms}-{sequence}"
        self.caught_up = len(final) == len(lines) and not any(len(page) >= PAGE for page in pages)
        return final

    async def _page(self, part: str) -> list[tuple[str, TelemetryPoint]]:
        after = self.after.setdefault(part, self._begin(part))
        if part not in self._kept:
            has_telemetry = bool(await self._log.read_telemetry(part, log_ids.START, 1))
            self._kept[part] = [] if has_telemetry else await asyncio.to_thread(self._read_kept, part)
        if kept := [row for row in self._kept[part] if log_ids.before(after, row[0])]:
            return kept[:PAGE]
        return await self._log.read_telemetry(part, after, PAGE)

    def _read_kept(self, part: str) -> list[tuple[str, TelemetryPoint]]:
        try:
            return kept_points(self._results_dir, part)
        except UnsafePath:
            return []

    def _begin(self, part: str) -> str:
        """Where a part begins when all up to the start's (id, part) was given out."""
        (ms, sequence), last_part = self._start
        if self._suffix(part) <= last_part:
            return f"{ms}-{sequence}"
        return just_before(f"{ms}-{sequence}")

    def _suffix(self, part: str) -> str:
        return part.removeprefix(self._root).lstrip(".")


def parts_of(cluster: Cluster, root: str) -> list[str]:
    """The tasks that have attempts, and so lines: the task itself, or the leaves of its family."""
    task = cluster.tasks.get(root)
    if task is None or not task.children:
        return [root]
    return [leaf for child in task.children for leaf in parts_of(cluster, child)]


def has_ended(cluster: Cluster, root: str) -> bool:
    """Whether nothing more is to come of a task: it has ended (or waits for a person), and no worker holds an attempt of it."""
    task = cluster.tasks.get(root)
    if task is None:
        return True
    if task.phase not in FINAL and task.phase != "dead_lettered":
        return False
    leaves = (cluster.tasks.get(part) for part in parts_of(cluster, root))
    return not any(leaf is not None and _is_held(cluster, leaf) for leaf in leaves)


def _is_held(cluster: Cluster, task: Task) -> bool:
    return cluster.holdings.find(task.worker, (task.id, task.last)) is not None


def _key_of(text: str) -> Key:
    id, _, part = text.partition(":")
    ms, _, sequence = id.partition("-")
    if not (ms.isdecimal() and (sequence or "0").isdecimal()):
        raise QueryError(f"after takes the id of a line, not {text!r}")
    return (int(ms), int(sequence or 0)), part
