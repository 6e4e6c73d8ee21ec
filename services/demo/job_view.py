"""A running job for a person: a line a part, with its state, its worker, its loss as a small curve, its tokens a second."""

from __future__ import annotations

import time

from rich.table import Table
from rich.text import Text

from mloc.core.task import Task
from mloc.services.demo.screen import Region, Screen
from mloc.services.demo.sparkline import sparkline
from mloc.services.demo.watch import Readings, Watch
from mloc.services.intake.commands.output import COLOURS, GLYPHS, age, one_line
from mloc.services.intake.task_requests import words

SAY_EVERY_SEC = 2.0  # numbers of one part, where nothing is drawn


class JobView:
    """Call `look` whenever something may have changed."""

    def __init__(self, watch: Watch, screen: Screen, region: Region) -> None:
        self._watch = watch
        self._screen = screen
        self._region = region
        self._said: dict[str, str] = {}  # task → state
        self._said_step: dict[str, tuple[int, float]] = {}  # task → step, when

    def look(self) -> None:
        if self._screen.draws:
            self._region.draw(self._table())
            return
        for part in self._watch.parts():
            self._say_state(part)
            if readings := self._watch.readings.get(part.id):
                self._say_numbers(part, readings)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        now_ms = self._watch.session.now_ms()
        for part in self._watch.parts():
            readings = self._watch.readings.get(part.id, Readings())
            spent = age((part.ended_ms or now_ms) - part.started_ms) if part.started_ms else ""
            table.add_row(
                Text(f"  {GLYPHS[part.phase]} {_name(part)}", style=COLOURS.get(part.phase, "")), state(part),
                Text(sparkline(readings.losses), style="magenta"), numbers(readings), Text(spent, style="dim"),
            )  # fmt: skip
        return table

    def _say_state(self, part: Task) -> None:
        said = state(part)
        if part.phase in ("dispatched", "succeeded") or self._said.get(part.id) == said:  # what follows comes at once
            return
        self._said[part.id] = said
        self._screen.change(f"{_name(part):<12} {said}")

    def _say_numbers(self, part: Task, readings: Readings) -> None:
        step, at = self._said_step.get(part.id, (0, 0.0))
        is_last = readings.step == readings.total_steps
        if not readings.losses or readings.step == step or (time.monotonic() - at < SAY_EVERY_SEC and not is_last):
            return
        self._said_step[part.id] = (readings.step, time.monotonic())
        self._screen.change(f"{_name(part):<12} {numbers(readings)}  {sparkline(readings.losses)}")


def state(part: Task) -> str:
    """What a part does, and where it does or did it."""
    where = ""
    if part.worker and not part.children and part.phase in ("dispatched", "running", "succeeded", "published"):
        where = f" {'by' if part.phase in ('succeeded', 'published') else 'on'} {part.worker}"
    return f"{'done' if part.phase == 'published' else words(part.phase)}{where}"


def numbers(readings: Readings) -> str:
    """Step, loss and speed as far as they are known; before that the newest log line."""
    shown = [f"step {readings.step}/{readings.total_steps}"] if readings.losses and readings.total_steps else []
    if readings.losses:
        shown.append(f"loss {readings.losses[0]:.3f} → {readings.losses[-1]:.3f}")
    if readings.tokens_per_sec:
        shown.append(f"{readings.tokens_per_sec:,.0f} tokens/s")
    return "  ".join(shown) or one_line(readings.line, 60)


def _name(part: Task) -> str:
    return f"  {part.id.rpartition('.')[2]}" if part.shard else part.stage
