"""Screen 1: all tasks, what needs attention first."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, Static

from mloc.console import task_filter
from mloc.console.page import Page
from mloc.console.phases import BAD, DIM, TASK, by_attention
from mloc.console.quantities_shown import duration, task_name
from mloc.console.row_table import Cells, Column, RowTable
from mloc.console.task_filter import FilterError
from mloc.console.view import View
from mloc.core.cluster import Cluster
from mloc.core.task import FINAL, Task, rows_done

COLUMNS = (
    Column("State", 13), Column("Task", 14, 4), Column("Type", 9, from_width=96), Column("Owner", 8, from_width=120), Column("Worker", 9, 1),
    Column("Age", 5, right=True), Column("Note", 10, 3),
)  # fmt: skip
SLICE = 2000  # tasks filtered before others may run


class TasksScreen(Page):
    kind = "tasks"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter", priority=True),  # before the next key is read, so that a fast typist's keys reach the field
        Binding("escape", "no_filter", "", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._view: View | None = None
        self._test: task_filter.Test | None = None
        self._filtering = False  # a filtering is under way
        self._again = False

    def body(self) -> ComposeResult:
        yield Static(id="summary", markup=True)
        yield RowTable(COLUMNS, self._cells, empty="no tasks yet: mloc-intake submit FILE")
        yield Static(id="complaint", markup=False)
        field = Input(id="filter", compact=True, placeholder=task_filter.EXAMPLE)
        field.cursor_blink = False
        yield field

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        self.query_one("#complaint").display = False
        self.query_one(RowTable).focus()

    def chosen_task(self) -> str:
        return str(self.query_one(RowTable).cursor_key or "")

    # --- showing ---

    def show_body(self, view: View) -> None:
        self._view = view
        if self._test is None:
            self._show_rows(list(by_attention(view.cluster)), view)
        elif self._filtering:
            self._again = True
        else:
            self._filtering = True
            self.run_worker(self._filter_rows(), exclusive=False)

    def _show_rows(self, rows: list[str], view: View) -> None:
        table = self.query_one(RowTable)
        table.empty = "no task fits this filter" if self._test else "no tasks yet: mloc-intake submit FILE"
        table.show(rows)
        self.query_one("#summary", Static).update(summary(view.cluster, len(rows)))

    async def _filter_rows(self) -> None:
        """Filter in slices; what changed meanwhile is shown by the next round."""
        self._again = True
        while self._again and self._test is not None and self._view is not None:
            self._again = False
            view, test = self._view, self._test
            rows: list[str] = []
            ids = by_attention(view.cluster)
            keys = list(ids)
            for start in range(0, len(keys), SLICE):
                for id in islice(keys, start, start + SLICE):
                    task = view.cluster.tasks.get(id)
                    if task is not None and test(task, view.now_ms):
                        rows.append(id)
                await asyncio.sleep(0)
            if self._test is test:
                self._show_rows(rows, view)
        self._filtering = False

    def _cells(self, key: object) -> Cells:
        view = self._view
        task = view.cluster.tasks.get(str(key)) if view else None
        if view is None or task is None:
            return [("", ""), (str(key), DIM), *[("", "")] * 5]
        look = TASK[task.phase]
        name = task_name(task.id, task.parent, self.query_one(RowTable).widths[1])
        return (
            (f"{look.glyph} {look.word}", look.style), (name, "bold" if task.children else ""), (task.task_type or "pipeline", DIM),
            (task.owner, DIM), (task.worker, ""), (duration(view.now_ms - task.since_ms), DIM), (note(task), BAD if task.error else DIM),
        )  # fmt: skip

    # --- the filter ---

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        self.set_focus(field)  # at once: what is typed next belongs to it

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return None if action == "filter" and isinstance(self.focused, Input) else True  # a slash in the field is text

    def action_no_filter(self) -> None:
        field = self.query_one("#filter", Input)
        if not field.display:
            return
        field.value = ""
        field.display = False
        self._take(None)
        self.query_one(RowTable).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed; what cannot be understood (yet) filters nothing and says why."""
        complaint = self.query_one("#complaint", Static)
        try:
            test = task_filter.parse(event.value)
        except FilterError as error:
            complaint.display = True
            complaint.update(f"✗ {error}")
            self._take(None)
            return
        complaint.display = False
        self._take(test)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if not event.value.strip():
            self.action_no_filter()
        self.query_one(RowTable).focus()

    def _take(self, test: task_filter.Test | None) -> None:
        self._test = test
        self.console_app.show_soon()

    def on_row_table_opened(self, event: RowTable.Opened) -> None:
        self.console_app.open_task(str(event.key))


def summary(cluster: Cluster, shown: int) -> str:
    """Counts of all tasks by state, and how many of them are shown."""
    counts = cluster.counts()
    parts = [f"[{look.style}]{look.glyph} {counts[phase]:,} {look.word}[/]" for phase, look in TASK.items() if counts.get(phase)]
    total = len(cluster.tasks)
    return f" showing {shown:,} of {total:,}  " + "  ".join(parts)


def note(task: Task) -> str:
    """The most telling thing about a task in its state."""
    if task.reason:
        return task.reason
    if task.children:
        return f"{task.done} of {len(task.children)} {'shards' if task.task_type else 'stages'} done"
    if task.phase == "waiting":
        return f"for {', '.join(id.removeprefix(f'{task.parent}.') for id in task.depends_on)}"
    if task.phase == "running":
        rows = f"{rows_done(task):,} of {task.items:,} rows" if task.rows and task.items else f"{task.rows:,} rows" if task.rows else ""
        return rows or (f"checkpoint at step {task.checkpoint_step}" if task.checkpoint else "")
    if task.phase in FINAL and task.started_ms:
        return f"ran {duration(task.ended_ms - task.started_ms)}"
    return ""
