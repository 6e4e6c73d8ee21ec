"""Lines of styled text of any number; only those that are seen are drawn. Long lines are wrapped; it can follow the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

Line = Sequence[tuple[str, str]]  # text and style of each part


class LineView(ScrollView, can_focus=True, inherit_bindings=False):
    DEFAULT_CSS = """
    LineView { height: 1fr; overflow-x: hidden; overflow-y: auto; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "scroll_down", "down", show=False),
        Binding("k,up", "scroll_up", "up", show=False),
        Binding("g,home", "scroll_home", "first", show=False),
        Binding("G,end", "scroll_end", "last", show=False),
        Binding("pagedown,ctrl+f", "page_down", "page down", show=False),
        Binding("pageup,ctrl+b", "page_up", "page up", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._lines: Sequence[Line] = ()
        self._wrapped: list[Line] = []
        self._wrapped_at = 0

    def show(self, lines: Sequence[Line], *, follow_end: bool = False) -> None:
        """Show these lines; with `follow_end` a view that stood at its end stays there."""
        at_end = self.scroll_offset.y >= self.virtual_size.height - self.size.height - 1
        self._lines = lines
        self._wrap()
        if follow_end and at_end:
            self.scroll_to(y=len(self._wrapped), animate=False, immediate=True, force=True)
        self.refresh()

    def on_resize(self) -> None:
        if self.size.width != self._wrapped_at:
            self._wrap()
            self.refresh()

    def _wrap(self) -> None:
        width = self._wrapped_at = max(10, self.size.width - 1)
        self._wrapped = [part for line in self._lines for part in _wrapped(line, width)]
        self.virtual_size = Size(self.size.width, len(self._wrapped))

    def render_line(self, y: int) -> Strip:
        index = y + self.scroll_offset.y
        base = self.rich_style
        if index >= len(self._wrapped):
            return Strip.blank(self.size.width, base)
        segments = [Segment(text, base + Style.parse(style) if style else base) for text, style in self._wrapped[index]]
        return Strip(segments).adjust_cell_length(self.size.width, base)


def _wrapped(line: Line, width: int) -> list[Line]:
    if sum(len(text) for text, _ in line) <= width:
        return [line]
    lines: list[list[tuple[str, str]]] = [[]]
    room = width
    for whole, style in line:
        text = whole
        while text:
            if not room:
                lines.append([])
                room = width
            lines[-1].append((text[:room], style))
            text, room = text[room:], room - min(room, len(text))
    return list(lines)
