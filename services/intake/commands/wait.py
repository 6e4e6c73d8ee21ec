"""Waiting for tasks: what they do is shown as it happens, until each has ended and its result is on disk."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from mloc.core.cluster import Cluster
from mloc.core.task import FINAL, Task
from mloc.services.intake.commands import exit_codes as codes
from mloc.services.intake.commands.log_session import Session
from mloc.services.intake.commands.output import COLOURS, GLYPHS, age, one_line, print_json, printable, say
from mloc.services.intake.published_results import large_result, read_result, result_folder
from mloc.services.intake.task_requests import words
from mloc.services.intake.views import task_view
from mloc.services.log.event_log import EventLog, LogUnavailable, TelemetryPoint
from mloc.services.results.folders import is_tree_complete

REDRAW_SEC = 0.25
TREE_PATIENCE_SEC = 10.0
_SHOWN_PARTS = 24


async def wait_for(session: Session, ids: Sequence[str], *, as_json: bool, with_logs: bool) -> int:
    """Until all have ended (or wait for a person); gives the exit code. ctrl-C ends the waiting, never the tasks."""
    observer = session.observer
    following = asyncio.create_task(observer.follow())
    try:
        await session.look_at_clock()
        with _shower(session, ids, as_json) as shower:
            lines = LogLines(session.log, shower.line) if with_logs else None
            while not _all_ended(session.cluster, ids):
                shower.update()
                await observer.moved(REDRAW_SEC)
                if lines is not None:
                    await lines.look(session, ids)
            shower.update()
        if lines is not None:
            await lines.look(session, ids)
        await _trees(session, ids)
        return await _conclude(session, ids, as_json)
    except asyncio.CancelledError:
        say(f"\nno longer waiting; {'the task goes' if len(ids) == 1 else 'the tasks go'} on: mloc-intake show {ids[0]}")
        raise
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


class LogLines:
    """Prints the log lines and metrics of tasks as they come."""

    def __init__(self, log: EventLog, line: Callable[[str], None]) -> None:
        self._log = log
        self._line = line
        self._after: dict[str, str] = {}

    async def look(self, session: Session, ids: Sequence[str]) -> None:
        for root in ids:
            task = session.cluster.tasks.get(root)
            for part in session.family(task) if task else []:
                if not part.children and part.tries:
                    await self._read(part)

    async def _read(self, task: Task) -> None:
        with contextlib.suppress(LogUnavailable):
            while points := await self._log.read_telemetry(task.id, self._after.get(task.id, "0-0")):
                for id, point in points:
                    self._after[task.id] = id
                    if text := telemetry_line(point):
                        self._line(f"{task.stage or task.name or task.id} | {text}")


def telemetry_line(point: TelemetryPoint) -> str:
    """One log line or metric point, for people."""
    dropped = f"({point.dropped} lines dropped) " if point.dropped else ""
    if point.line:
        return dropped + printable(point.line)
    step = f"step {point.step}" + (f"/{point.total_steps}" if point.total_steps else "") if point.step else ""
    return dropped + " ".join(part for part in (step, *(f"{name}={value:.4g}" for name, value in point.metrics.items())) if part)


class LiveShower:
    """One line a task on a terminal, drawn anew in place."""

    def __init__(self, session: Session, ids: Sequence[str]) -> None:
        self._session = session
        self._ids = ids
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)

    def __enter__(self) -> LiveShower:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def update(self) -> None:
        text = Text("\n").join(_lines(self._session, self._ids))
        if trouble := self._session.observer.trouble:
            text.append(f"\n{one_line(trouble)}; waiting for it", style="yellow")
        self._live.update(text, refresh=True)

    def line(self, text: str) -> None:
        self._console.print(text, markup=False)


class PlainShower:
    """One line for each change, where nobody draws."""

    def __init__(self, session: Session, ids: Sequence[str], *, quiet: bool) -> None:
        self._session = session
        self._ids = ids
        self._quiet = quiet
        self._shown: dict[str, str] = {}

    def __enter__(self) -> PlainShower:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self) -> None:
        if self._quiet:
            return
        for task in _parts(self._session, self._ids):
            now = f"{task.phase} {task.worker if task.phase in ('dispatched', 'running') else ''}".rstrip()
            if self._shown.get(task.id) != now and task.phase != "succeeded":  # published follows at once
                self._shown[task.id] = now
                say(f"{GLYPHS[task.phase]} {task.id}: {_said(task)}")

    def line(self, text: str) -> None:
        say(text)


def _shower(session: Session, ids: Sequence[str], as_json: bool) -> LiveShower | PlainShower:
    return LiveShower(session, ids) if sys.stderr.isatty() and not as_json else PlainShower(session, ids, quiet=as_json)


def _lines(session: Session, ids: Sequence[str]) -> list[Text]:
    parts = _parts(session, ids)
    now_ms = session.now_ms()
    shown = [task for task in parts if task.phase != "published" or not task.parent] if len(parts) > _SHOWN_PARTS else parts
    lines = []
    for task in shown[:_SHOWN_PARTS]:
        indent = "  " if task.parent else ""
        spent = age((task.ended_ms or now_ms) - task.started_ms) if task.started_ms else ""
        done = f" {task.done}/{len(task.children)} parts" if task.children else f" {task.rows} rows" if task.rows else ""
        line = Text(f"{indent}{GLYPHS[task.phase]} ", style=COLOURS.get(task.phase, ""))
        line.append(f"{_named(task):<24} {_said(task)}{done} {spent}")
        lines.append(line)
    if len(shown) > _SHOWN_PARTS:
        lines.append(Text(f"  … showing {_SHOWN_PARTS} of {len(parts)} tasks", style="dim"))
    return lines


def _named(task: Task) -> str:
    return printable(task.stage or (task.name if task.parent else "") or task.id)


def _said(task: Task) -> str:
    on = f" on {task.worker}" if task.phase in ("dispatched", "running") and task.worker and not task.children else ""
    why = f" ({one_line(task.reason, 80)})" if task.reason else ""
    return f"{words(task.phase)}{on}{why}"


def _parts(session: Session, ids: Sequence[str]) -> list[Task]:
    roots = (session.cluster.tasks.get(id) for id in ids)
    return [part for root in roots if root is not None for part in session.family(root)]


def _all_ended(cluster: Cluster, ids: Sequence[str]) -> bool:
    return all((task := cluster.tasks.get(id)) is not None and (task.phase in FINAL or task.phase == "dead_lettered") for id in ids)


async def _trees(session: Session, ids: Sequence[str]) -> None:
    """The results' trees follow their publication; a folder that this machine does not see is not waited for."""
    if not session.results_dir.is_dir():
        return
    ended = [task for task in _parts(session, ids) if task.phase == "published" and not task.shard]  # a shard's is in its parent's
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TREE_PATIENCE_SEC):
            while not all(is_tree_complete(session.results_dir, task) for task in ended):
                await asyncio.sleep(0.01)


async def _conclude(session: Session, ids: Sequence[str], as_json: bool) -> int:
    tasks = [session.cluster.tasks[id] for id in ids]
    if as_json:
        shown = []
        for task in tasks:
            large = large_result(session.results_dir, task)
            result = await read_result(session.log, session.results_dir, task) if task.phase == "published" and large is None else None
            facts = msgspec.to_builtins(task_view(session.cluster, task))
            view = {"ok": task.phase == "published", **facts, "result": msgspec.Raw(result) if result else None}
            if large is not None:
                view["result_path"] = str(large.resolve())
            view["tasks"] = [task_view(session.cluster, part) for part in session.family(task)[1:]]
            shown.append(view)
        print_json(shown[0] if len(shown) == 1 else {"ok": all(view["ok"] for view in shown), "tasks": shown})
    else:
        for task in tasks:
            _say_end(session, task)
    return codes.OK if all(task.phase == "published" for task in tasks) else codes.FAILED


def _where(results_dir: Path, task: Task) -> str:
    """Where the result is, for the end of a line; nothing where this machine does not see the folder of results."""
    if not results_dir.is_dir():
        return ""
    if not is_tree_complete(results_dir, task):
        return f"; its files are not in {results_dir.resolve()} yet, and the aggregator's log says why: mloc-intake result {task.id}"
    return f"; {result_folder(results_dir, task.id).resolve()}"


def _say_end(session: Session, task: Task) -> None:
    if task.phase == "published":
        print(f"{task.id}: done in {age(task.ended_ms - task.submitted_ms)}{_where(session.results_dir, task)}")
        return
    say(f"{task.id}: {words(task.phase)}: {task.reason or 'no reason was given'}")
    if task.phase == "dead_lettered":
        say(f"  try again with: mloc-intake retry {task.id}")
