"""What all screens share: the line at the top (screens, live or AS OF), the banner below it, the keys at the bottom."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import Screen
from textual.widgets import Footer, Static

from mloc.console.quantities_shown import clock
from mloc.console.view import View
from mloc.core import log_ids

if TYPE_CHECKING:
    from mloc.console.app import ConsoleApp

SCREENS = {"tasks": "1 Tasks", "workers": "3 Workers", "events": "5 Events"}
TRAVEL_KEYS = "the past: ← → one event, shift 100, , . failures, @ jump, t back to live"


class Page(Screen[None]):
    """A screen over a View. `show` is called at most ten times a second, when something changed."""

    BINDINGS: ClassVar[list[BindingType]] = []
    kind = ""

    def compose(self) -> ComposeResult:
        yield Static(id="top")
        yield Static(id="banner", markup=False)
        yield from self.body()
        yield Footer(show_command_palette=False, compact=True)

    def body(self) -> ComposeResult:
        yield from ()

    def on_screen_resume(self) -> None:
        self.console_app.show_soon()

    @property
    def console_app(self) -> ConsoleApp:
        return cast("ConsoleApp", self.app)

    def chosen_task(self) -> str:
        """The task that an action means; "" for none."""
        return ""

    @property
    def is_drawn(self) -> bool:
        """Whether its widgets are there: not yet before it is composed, and not any more while the app ends."""
        return len(self.query("#top, #banner")) == 2

    def show(self, view: View) -> None:
        self.query_one("#top", Static).update(top_line(view, self.kind, self.size.width))
        banner = self.query_one("#banner", Static)
        text = _banner(view)
        banner.display = bool(text)
        banner.set_class(bool(view.trouble), "trouble")
        banner.update(text)
        self.show_body(view)

    def show_body(self, view: View) -> None: ...


def top_line(view: View, kind: str, width: int) -> str:
    """Markup of the top line: screens to click on the left, where in history this is on the right."""
    tabs = " ".join(
        f"[@click=app.screen_of('{name}')]{'[reverse]' if name == kind else ''} {title} {'[/reverse]' if name == kind else ''}[/]"
        for name, title in SCREENS.items()
    )
    left_width = len(" MLOC ") + sum(len(title) + 3 for title in SCREENS.values()) - 1
    where, style = _where(view, width - left_width - 2)
    return f"[bold] MLOC [/bold]{tabs}{' ' * max(1, width - left_width - len(where) - 1)}[{style}]{where}[/]"


def _where(view: View, width: int) -> tuple[str, str]:
    lock = "read-only · " if view.read_only else ""
    if view.is_past:
        time = clock(log_ids.time_ms(view.cluster.position))
        for text in (f" AS OF #{view.ordinal:,} of {view.total:,} · {time} ", f" AS OF #{view.ordinal:,} {time} ", f" AS OF #{view.ordinal} "):
            if len(text) <= width:
                break
        return text, "bold black on #E69F00"
    if view.trouble:
        return "○ away", "bold #FF7F3F"
    if view.reading:
        return f"… reading, {view.total:,} events", "#F0E442"
    if view.archive:
        full = f"■ {view.archive} · {view.total:,} events"
        return (full if len(full) <= width else f"■ {view.total:,} events"), "#E69F00"
    rate = f" · {view.events_per_sec:,.0f}/s" if view.events_per_sec >= 1 else ""
    full = f"{lock}● live · {view.total:,} events{rate}"
    return (full if len(full) <= width else f"{lock}● live"), "#009E73"


def _banner(view: View) -> str:
    if view.trouble:
        last = "the last state is shown; " if view.total else ""
        return f"✗ the event log is away: {view.trouble} ({last}trying again)"
    return TRAVEL_KEYS if view.is_past else ""
