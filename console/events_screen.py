"""Screen 5: the control log, every event of it, the newest at the end."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from mloc.console.page import Page
from mloc.console.phases import BAD, DIM
from mloc.console.quantities_shown import clock, middle_cut
from mloc.console.questions import Payload
from mloc.console.row_table import Cells, Column, RowTable
from mloc.console.time_machine import SLICE, event_of
from mloc.console.view import View
from mloc.core import event_line, log_ids
from mloc.services.log.event_log import Entry, LogError

COLUMNS = (
    Column("#", 8, right=True, from_width=96), Column("Time", 12), Column("Event", 19), Column("Task or worker", 10, 2), Column("What", 16, 4)
)  # fmt: skip
KEPT_PAGES = 200


class EventsScreen(Page):
    kind = "events"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("e", "payload", "payload")]

    def __init__(self) -> None:
        super().__init__()
        self._pages: dict[int, list[Entry]] = {}
        self._asked: set[int] = set()
        self._total = 0

    def body(self) -> ComposeResult:
        yield Static(id="summary", markup=False)
        yield RowTable(COLUMNS, self._cells, empty="nothing has happened yet", follows_end=True)

    def on_mount(self) -> None:
        self.query_one(RowTable).focus()

    def forget(self) -> None:
        """The log is another one."""
        self._pages.clear()
        self._asked.clear()

    def chosen_task(self) -> str:
        entry = self._entry(self.chosen_ordinal())
        return event_line.task_of(event_of(entry)) if entry else ""

    def chosen_ordinal(self) -> int:
        key = self.query_one(RowTable).cursor_key
        return key if isinstance(key, int) else 0

    def show_body(self, view: View) -> None:
        grown, self._total = self._total, view.ordinal
        if grown != view.ordinal:
            self._pages.pop((grown - 1) // SLICE, None)  # the page that was not full yet
            self._asked.discard((grown - 1) // SLICE)
        self.query_one(RowTable).show(range(1, view.ordinal + 1))
        self.query_one("#summary", Static).update(f" {view.ordinal:,} of {view.total:,} events" + ("" if view.is_past else ", the newest at the end"))

    def _cells(self, key: object) -> Cells:
        ordinal = key if isinstance(key, int) else 0
        entry = self._entry(ordinal)
        if entry is None:
            return ((f"{ordinal:,}", DIM), ("", ""), (self.console_app.chronicle.type_of(ordinal), DIM), ("…", DIM), ("", ""))
        event = event_of(entry)
        about = event_line.task_of(event) or event_line.worker_of(event)
        style = f"bold {BAD}" if entry.type in event_line.FAILURES else "bold"
        return (
            (f"{ordinal:,}", DIM), (clock(log_ids.time_ms(entry.id)), DIM), (entry.type, style),
            (middle_cut(about, self.query_one(RowTable).widths[3]), ""), (event_line.describe(event), ""),
        )  # fmt: skip

    def _entry(self, ordinal: int) -> Entry | None:
        """The entry if it is here; else it is asked for, and the screen shown again."""
        if not ordinal:
            return None
        page, at = divmod(ordinal - 1, SLICE)
        entries = self._pages.get(page)
        if entries is not None and at < len(entries):
            return entries[at]
        if page not in self._asked:
            self._asked.add(page)
            self.run_worker(self._read(page))
        return None

    async def _read(self, page: int) -> None:
        try:
            first = page * SLICE + 1
            entries = await self.console_app.machine.entries(first, min(first + SLICE - 1, len(self.console_app.chronicle)))
        except LogError:
            self._asked.discard(page)  # the banner tells it
            return
        self._pages[page] = entries
        self._asked.discard(page)
        while len(self._pages) > KEPT_PAGES:
            del self._pages[next(iter(self._pages))]
        self.query_one(RowTable).refresh()

    def on_row_table_opened(self, event: RowTable.Opened) -> None:
        if task := self.chosen_task():
            self.console_app.open_task(task)
        else:
            self.action_payload()

    def action_payload(self) -> None:
        if entry := self._entry(self.chosen_ordinal()):
            text = msgspec.json.format(entry.payload, indent=2).decode(errors="replace")
            self.app.push_screen(Payload(f"#{self.chosen_ordinal():,}  {entry.id}  {entry.type}", text))
