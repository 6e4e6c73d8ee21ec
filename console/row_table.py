"""A table over a list of any length: it draws only the lines that are seen, and keeps its cursor on a row, wherever that row moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from mloc.console.quantities_shown import fitted

MARKER = "▸ "  # the cursor's row shows it too where there is no colour


class Column(NamedTuple):
    """`least` characters; `share` of the room that is left; only shown in terminals at least `from_width` wide."""

    title: str
    least: int
    share: int = 0
    from_width: int = 0
    right: bool = False


Cells = Sequence[tuple[str, str]]  # text and style of each column


class RowTable(ScrollView, can_focus=True, inherit_bindings=False):
    """Rows are keys; `cells_of(key)` gives a row's cells when it is drawn."""

    DEFAULT_CSS = """
    RowTable { height: 1fr; overflow-x: hidden; overflow-y: auto; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "cursor(1)", "down", show=False),
        Binding("k,up", "cursor(-1)", "up", show=False),
        Binding("g,home", "first", "first", show=False),
        Binding("G,end", "last", "last", show=False),
        Binding("pagedown,ctrl+f", "page(1)", "page down", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "page up", show=False),
        Binding("enter", "open", "open"),
    ]

    class Opened(Message):
        """A person wants to see the row of `key`."""

        def __init__(self, key: object) -> None:
            self.key = key
            super().__init__()

    def __init__(self, columns: Sequence[Column], cells_of: Callable[[object], Cells], *, empty: str = "", follows_end: bool = False) -> None:
        super().__init__()
        self._columns = columns
        self._cells_of = cells_of
        self._rows: Sequence[object] = ()
        self._at = 0
        self._was_moved = False  # a cursor that nobody moved stays at the top (or at the end, where the table follows it)
        self._follows_end = follows_end
        self.empty = empty
        self.widths: Sequence[int] = [column.least for column in columns]  # of the columns as they are drawn; 0 for one that is not

    # --- what is shown ---

    @property
    def rows(self) -> Sequence[object]:
        return self._rows

    @property
    def cursor_key(self) -> object | None:
        """The row under the cursor; None in an empty table."""
        return self._rows[self._at] if self._rows else None

    def show(self, rows: Sequence[object]) -> None:
        """Show these rows; the cursor stays on its row, at its height on the screen, if that row is still there."""
        before, key = self._at, self.cursor_key
        self._rows = rows
        if not rows:
            self._at = 0
        elif not self._was_moved:
            self._at = len(rows) - 1 if self._follows_end else 0
        elif key is not None:
            self._at = self._index_of(key, min(before, len(rows) - 1))
        self.virtual_size = Size(self.size.width, len(rows) + 1)
        if self._at != before and self._was_moved:
            self.scroll_to(y=self.scroll_offset.y + self._at - before, animate=False, immediate=True, force=True)
        elif not self._was_moved:
            self._into_view()
        self.refresh()

    def _index_of(self, key: object, otherwise: int) -> int:
        if otherwise < len(self._rows) and self._rows[otherwise] == key:
            return otherwise
        try:
            return self._rows.index(key)
        except ValueError:
            return otherwise

    # --- drawing ---

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        base = self.rich_style
        shown = [column for column in self._columns if width >= column.from_width]
        widths = _widths(shown, width - len(MARKER))
        if y == 0:
            title = " ".join(_cell(column.title, width, column.right) for column, width in zip(shown, widths, strict=True))
            return Strip([Segment(fitted("  " + title, width), base + Style(bold=True, dim=True))], width)
        index = y - 1 + self.scroll_offset.y
        if index >= len(self._rows):
            text = self.empty if not self._rows and y == 2 else ""
            return Strip([Segment(fitted("  " + text, width), base)], width)
        is_cursor = index == self._at
        if is_cursor:
            base += self.get_component_rich_style("row-table--cursor") if self.has_focus else Style(bold=True)
        segments = [Segment(MARKER if is_cursor else "  ", base)]
        all_widths = self.widths = _all_widths(self._columns, shown, widths)
        for column, cell_width, (text, style) in zip(self._columns, all_widths, self._cells_of(self._rows[index]), strict=True):
            if cell_width:
                segments.append(Segment(_cell(text, cell_width, column.right), base + Style.parse(style) if style else base))
                segments.append(Segment(" ", base))
        return Strip(segments).adjust_cell_length(width, base)

    COMPONENT_CLASSES: ClassVar[set[str]] = {"row-table--cursor"}

    # --- moving ---

    def action_cursor(self, by: int) -> None:
        self._move(self._at + by)

    def action_first(self) -> None:
        self._move(0)
        self._was_moved = self._follows_end

    def action_last(self) -> None:
        self._move(len(self._rows) - 1)
        self._was_moved = not self._follows_end

    def action_page(self, by: int) -> None:
        self._move(self._at + by * max(1, self.size.height - 2))

    def action_open(self) -> None:
        if self._rows:
            self.post_message(self.Opened(self._rows[self._at]))

    def on_click(self, event: events.Click) -> None:
        index = event.y - 1 + self.scroll_offset.y
        if event.y < 1 or index >= len(self._rows):
            return
        was = self._at
        self._move(index)
        if index == was or event.chain > 1:
            self.action_open()

    def _move(self, to: int) -> None:
        if not self._rows:
            return
        self._at = max(0, min(to, len(self._rows) - 1))
        self._was_moved = True
        self._into_view()
        self.refresh()

    def _into_view(self) -> None:
        # the title takes the first line of the screen and scrolls with nothing, so that the last row needs one line more
        height = max(1, self.size.height - 1)
        top = self.scroll_offset.y
        wanted = min(max(top, self._at - height + 1), self._at, max(0, len(self._rows) - height))  # nor beyond the last row
        if wanted != top:
            self.scroll_to(y=wanted, animate=False, immediate=True, force=True)
        self.call_after_refresh(self._place_scrollbar)

    def _place_scrollbar(self) -> None:
        """A scroll from before the scrollbar was there is not known to it."""
        if self.show_vertical_scrollbar and self.vertical_scrollbar.position != self.scroll_y:
            self.vertical_scrollbar.position = self.scroll_y

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._rows) + 1)
        self.call_after_refresh(self._into_view)


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """The least of each, and shares of what is left between them."""
    left = width - sum(column.least for column in columns) - len(columns)
    shares = sum(column.share for column in columns) or 1
    return [max(1, column.least + (left * column.share // shares if left > 0 else 0)) for column in columns]


def _all_widths(columns: Sequence[Column], shown: Sequence[Column], widths: Sequence[int]) -> list[int]:
    known = dict(zip((column.title for column in shown), widths, strict=True))
    return [known.get(column.title, 0) for column in columns]


def _cell(text: str, width: int, right: bool) -> str:
    cut = fitted(text, width)
    return cut.rstrip().rjust(width) if right else cut
