"""Waiting for tasks: what they do is shown as it happens, until each has ended and its result is where people look for it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import msgspec
from rich.console import Console
from rich.live import Live

from mloc.services.intake.commands import exit_codes as codes
from mloc.services.intake.commands.output import age, one_line, print_json, say
from mloc.services.intake.commands.progress import Changes, Part, Reading, drawing, folded
from mloc.services.intake.commands.source import Source, Unreachable, View, has_ended, milliseconds
from mloc.services.intake.streams.line_text import line_text
from mloc.services.intake.task_names import UnknownTask
from mloc.services.intake.task_requests import words
from mloc.services.log.event_log import LogUnavailable

REDRAW_SEC = 0.25
READ_SEC = 0.5  # between two looks at log lines
MOST_READ = 8  # running parts whose metrics are looked at for the bars
Draw = Callable[[list[Part], str, int], None]


async def wait_for(source: Source, ids: list[str], *, as_json: bool, with_logs: bool, quiet: bool = False) -> int:
    """Until all have ended (or wait for a person); gives the exit code. ctrl-C ends the waiting, never the tasks."""
    try:
        views = await until_ended(source, ids, with_logs=with_logs, quiet=quiet or as_json)
        return await _conclude(source, ids, views, as_json)
    except asyncio.CancelledError:
        goes = "the task goes" if len(ids) == 1 else "the tasks go"
        say(f"\nno longer waiting; {goes} on: mloc-intake show {ids[0]}{source.again}")
        say(f"come back with: mloc-intake logs {ids[0]} --follow{source.again}")
        raise


async def until_ended(source: Source, ids: list[str], *, with_logs: bool, quiet: bool) -> list[View]:
    """The tasks and their parts as they ended; on the way, what happens is shown on standard error."""
    async with source.following(with_logs=with_logs):
        with _shown(quiet) as (draw, line):
            telemetry = Telemetry(source, line if with_logs else None)
            while True:
                views = await source.family(ids)
                if draw is not None or with_logs:
                    await telemetry.look(views)
                if draw is not None:
                    draw(folded(views, telemetry.readings), source.trouble, await _now_ms(source))
                by_id = {view["task_id"]: view for view in views}
                if all(id in by_id and has_ended(by_id[id]) for id in ids):
                    break
                await source.moved(REDRAW_SEC)
            if with_logs:
                await telemetry.look(views, all_of_them=True)
        await source.settle(ids)
        return views


class Telemetry:
    """Reads the log lines and metric points of tasks as they come; lines go to `line` where one is given."""

    def __init__(self, source: Source, line: Callable[[str], None] | None) -> None:
        self._source = source
        self._line = line
        self._after: dict[str, str] = {}
        self._said: dict[str, str] = {}  # the last line of each task
        self.readings: dict[str, Reading] = {}
        self._looked_at = 0.0

    async def look(self, views: list[View], *, all_of_them: bool = False) -> None:
        """For bars it is enough to look at some that run; `--follow` is told every line, also of what has just ended."""
        if not all_of_them and time.monotonic() - self._looked_at < READ_SEC:
            return
        self._looked_at = time.monotonic()
        leaves = [view for view in views if not view["children"] and view["attempts"]]
        if self._line is None:
            leaves = [view for view in leaves if view["state"] == "running" and not view.get("shard")][:MOST_READ]
        elif not all_of_them:
            leaves = [view for view in leaves if not has_ended(view) or view["task_id"] not in self._after]
        with contextlib.suppress(LogUnavailable, Unreachable, UnknownTask):
            for view in leaves:
                await self._read(view)

    async def _read(self, view: View) -> None:
        id = view["task_id"]
        while points := await self._source.lines(id, self._after.get(id, "")):
            for point in points:
                if self._line is not None and (text := line_text(point, self._said.get(id, ""))):
                    self._said[id] = text
                    self._line(f"{view['stage'] or view['name'] or id} | {text}")
                if point.get("metrics") or point.get("step"):
                    known = self.readings.get(id, Reading()).metrics
                    self.readings[id] = Reading(point.get("step", 0), point.get("total_steps", 0), {**known, **point.get("metrics", {})})
            if "id" not in points[-1]:  # what was kept with the result
                self._after[id] = "~"
            if self._after.get(id) == "~":
                return
            self._after[id] = points[-1]["id"]


@contextlib.contextmanager
def _shown(quiet: bool) -> Iterator[tuple[Draw | None, Callable[[str], None]]]:
    """How progress and log lines are shown: drawn in place on a terminal, else as lines; log lines alone where `quiet`."""
    if quiet:
        yield None, say
        return
    if not sys.stderr.isatty():
        changes = Changes(say)
        yield lambda parts, trouble, now_ms: changes.look(parts), say
        return
    console = Console(stderr=True, highlight=False)
    with Live(console=console, auto_refresh=False, transient=False, vertical_overflow="ellipsis") as live:

        def draw(parts: list[Part], trouble: str, now_ms: int) -> None:
            text = drawing(parts, now_ms, console.width, console.height)
            if trouble:
                text.append(f"\n{one_line(trouble, max(20, console.width - 16))}; waiting for it", style="yellow")
            live.update(text, refresh=True)

        yield draw, lambda text: console.print(text, markup=False, soft_wrap=True)


async def _now_ms(source: Source) -> int:
    with contextlib.suppress(LogUnavailable):
        return await source.now_ms()
    return 0


async def _conclude(source: Source, ids: list[str], views: list[View], as_json: bool) -> int:
    by_id = {view["task_id"]: view for view in views}
    if as_json:
        shown = []
        for id in ids:
            view = by_id[id]
            is_done = view["state"] == "published"
            large = await source.large_result(id) if is_done else ""
            result = await source.result(id) if is_done and not large else None
            parts = [part for part in views if part["task_id"] != id and _root_of(part, by_id) == id]
            place = {"result_path": large} if large else {}
            shown.append({"ok": is_done, **view, "result": msgspec.Raw(result) if result else None, **place, "tasks": parts})
        print_json(shown[0] if len(shown) == 1 else {"ok": all(view["ok"] for view in shown), "tasks": shown})
    else:
        for id in ids:
            _say_end(source, by_id[id])
    return codes.OK if all(by_id[id]["state"] == "published" for id in ids) else codes.FAILED


def _root_of(view: View, by_id: dict[str, View]) -> str:
    while view["parent"] in by_id:
        view = by_id[view["parent"]]
    return str(view["task_id"])


def _say_end(source: Source, view: View) -> None:
    id = view["task_id"]
    if view["state"] == "published":
        place = source.place(id)
        print(f"{id}: done in {age(milliseconds(view['ended_at']) - milliseconds(view['submitted_at']))}" + (f"; {place}" if place else ""))
        return
    say(f"{id}: {words(view['state'])}: {view['reason'] or 'no reason was given'}")
    if view["state"] == "dead_lettered":
        say(f"  try again with: mloc-intake retry {id}{source.again}")
