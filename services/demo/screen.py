"""Where the demo speaks: on a terminal a region that is drawn anew while something runs, elsewhere (CI, a file) plain lines for changes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text


class Screen:
    """Standard output; `draws` is whether there is a terminal to draw on. Lines are never cut or wrapped where there is none."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.draws = self.console.is_terminal
        self._began = time.monotonic()

    def title(self, text: str) -> None:
        self.say()
        self.say(text, style="bold cyan" if self.draws else "")

    def say(self, text: str = "", style: str = "") -> None:
        """A line that stays."""
        self.console.print(Text(text, style=style), soft_wrap=True)
        self.console.file.flush()

    def change(self, text: str) -> None:
        """A line for something that a terminal's region shows anyway."""
        if not self.draws:
            self.say(f"  {time.monotonic() - self._began:6.1f} s  {text}")

    @contextlib.contextmanager
    def region(self) -> Iterator[Region]:
        """While it is open, `say` writes above it; its last drawing stays."""
        if not self.draws:
            yield Region(None)
            return
        with Live(console=self.console, auto_refresh=False, transient=False, vertical_overflow="crop") as live:
            yield Region(live)


class Region:
    """What is drawn in place; nothing where nothing is drawn."""

    def __init__(self, live: Live | None) -> None:
        self._live = live

    def draw(self, content: RenderableType) -> None:
        if self._live is not None:
            self._live.update(content, refresh=True)
