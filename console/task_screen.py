"""A task's page: overview, history, spec, log and curves, result. Live, or as of the moment that is shown."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from mloc.console import task_text
from mloc.console.line_view import LineView
from mloc.console.page import Page
from mloc.console.task_history import TaskHistory
from mloc.console.time_machine import event_of
from mloc.console.view import View
from mloc.core import log_ids
from mloc.core.events import AttemptSucceeded, ResultPublished
from mloc.core.task import ENDED, FINAL, Task
from mloc.services.log.event_log import LogError, TelemetryPoint

PANES = ("Overview", "History", "Spec", "Log", "Result")
TELEMETRY_EVERY_SEC = 0.3
MOST_POINTS = 20_000


class TaskScreen(Page):
    kind = "task"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "back"),
        Binding("left_square_bracket", "pane(-1)", "pane before", show=False),
        Binding("right_square_bracket", "pane(1)", "next pane", key_display="]"),
    ]

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task_id = task
        self._pane = 0
        self._history = TaskHistory(task)
        self._telemetry: list[tuple[str, TelemetryPoint]] = []
        self._kept_log: bytes | None = None
        self._result: bytes | None = None
        self._result_of = ""
        self._stop_listening = lambda: None

    def body(self) -> ComposeResult:
        yield Static(id="panes", markup=True)
        yield LineView()

    def on_mount(self) -> None:
        app = self.console_app
        self._stop_listening = app.follower.listen(self._history.seen)
        self.run_worker(self._history.read_past(app.machine, app.chronicle, app.follower.cluster.tasks.get(self.task_id)))
        self.run_worker(self._read_telemetry())
        self.query_one(LineView).focus()

    def on_unmount(self) -> None:
        self._stop_listening()

    def chosen_task(self) -> str:
        return self.task_id

    def action_pane(self, by: int) -> None:
        self._to_pane((self._pane + by) % len(PANES))

    def action_to_pane(self, pane: int) -> None:
        self._to_pane(pane)

    def _to_pane(self, pane: int) -> None:
        self._pane = pane
        self.query_one(LineView).scroll_home(animate=False)
        self.console_app.show_soon()

    # --- showing ---

    def show_body(self, view: View) -> None:
        tabs = " ".join(
            f"[@click=screen.to_pane({at})]{'[reverse]' if at == self._pane else ''} {name} {'[/reverse]' if at == self._pane else ''}[/]"
            for at, name in enumerate(PANES)
        )
        self.query_one("#panes", Static).update(f" {tabs}")
        task = view.cluster.tasks.get(self.task_id)
        lines = self._lines(view, task) if task is not None else self._absent(view)
        self.query_one(LineView).show(lines, follow_end=PANES[self._pane] in ("Log", "History"))

    def _lines(self, view: View, task: Task) -> list[task_text.Line]:
        position = view.cluster.position
        history = self._history.events
        telemetry = self._telemetry
        if view.is_past:
            history = [(id, event) for id, event in history if not log_ids.before(position, id)]
            telemetry = [(id, point) for id, point in telemetry if log_ids.time_ms(id) <= view.now_ms]
        width = self.size.width - 4  # padding and scrollbar
        match PANES[self._pane]:
            case "Overview":
                return task_text.overview(view, task, history, telemetry, width)
            case "History":
                return task_text.history_text(self.task_id, history, self._history.read_share)
            case "Spec":
                return task_text.spec_text(view.cluster.spec_of(task) or self._history.spec(), task.spec_digest)
            case "Log":
                return [*task_text.curves(telemetry, width)[1:], *task_text.log_text(telemetry, None if view.is_past else self._kept_log)]
            case _:
                if task.phase in ENDED and self._result_of != f"{task.result_id}{task.phase}":
                    self._result_of = f"{task.result_id}{task.phase}"
                    self.run_worker(self._read_result(task), group="result", exclusive=True)
                return task_text.result_text(task, self._result if task.phase in ENDED else None)

    def _absent(self, view: View) -> list[task_text.Line]:
        if view.is_past:
            return [[(f"{self.task_id} was not there yet, or had left memory, at this point", "")]]
        history = task_text.history_text(self.task_id, self._history.events, self._history.read_share)
        return [[(f"{self.task_id} has left memory; its history remains", "")], [], *history]

    # --- reading ---

    async def _read_telemetry(self) -> None:
        after = log_ids.START
        while True:
            try:
                points = await self.console_app.source.read_telemetry(self.task_id, after)
                if points:
                    after = points[-1][0]
                    self._telemetry += points
                    del self._telemetry[:-MOST_POINTS]
                    self.console_app.show_soon()
                elif not self._telemetry and self._kept_log is None and self._has_ended():
                    self._kept_log = await self.console_app.source.result_file(self.task_id, "logs") or b""
                    self.console_app.show_soon()
            except LogError:
                pass  # the banner tells it
            await asyncio.sleep(TELEMETRY_EVERY_SEC)

    def _has_ended(self) -> bool:
        task = self.console_app.follower.cluster.tasks.get(self.task_id)
        return task is not None and task.phase in FINAL

    async def _read_result(self, task: Task) -> None:
        """From the log, where it is inline, else the published file."""
        self._result = None
        try:
            entry = await self.console_app.source.look_up(task.result_id) if task.result_id else None
        except LogError:
            self._result_of = ""
            return
        event = event_of(entry) if entry is not None else None
        if isinstance(event, AttemptSucceeded | ResultPublished) and event.result:
            self._result = bytes(event.result)
        else:
            self._result = await self.console_app.source.result_file(self.task_id, "responses.json")
        self.console_app.show_soon()
