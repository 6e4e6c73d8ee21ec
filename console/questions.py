"""Windows over a screen that ask something: yes or no, a line of text; and the one that explains the keys."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

HELP = """\
[b]moving[/b]    j k ↓ ↑ one row    g G first, last    pgdn pgup one page
          enter open    esc back    [ ] panes of a task
[b]screens[/b]   1 Tasks    3 Workers    5 Events    q quit
[b]filter[/b]    / state:failed,running type:lora* -owner:ada age>5m
          worker:gpu-0* label:team=x text /regex/      esc takes it away
[b]actions[/b]   x cancel the task    r retry a dead-lettered task
[b]events[/b]    enter opens its task    e shows it as it is in the log
[b]past[/b]      t there and back; from Events to the event under the cursor
          ← → one event   shift ← → hundred   , . failures before, after
          @ an id, #1234, 14:05:30, 2026-01-31T14:05, -5m
          The live view goes on behind it; actions are off meanwhile.

Everything also by mouse: click a row to choose it, again to open it."""


class Confirm(ModalScreen[bool]):
    """A question whose answer is No unless a person says Yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape", "answer(False)", "no"),
        Binding("left,right,h,l", "app.focus_next", "other", show=False),
    ]

    def __init__(self, question: str, detail: str = "") -> None:
        super().__init__()
        self._question = question
        self._detail = detail

    def compose(self) -> ComposeResult:
        with Vertical(classes="window"):
            yield Static(self._question, classes="question", markup=False)
            if self._detail:
                yield Static(self._detail, markup=False)
            with Horizontal(classes="buttons"):
                yield Button("No", id="no", compact=True)
                yield Button("Yes", id="yes", compact=True, variant="warning")

    def on_mount(self) -> None:
        self.query_one("#no").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class Ask(ModalScreen[str | None]):
    """One line of text; None when a person leaves. `check` gives what is wrong with it, or ""."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "leave")]

    def __init__(self, question: str, hint: str) -> None:
        super().__init__()
        self._question = question
        self._hint = hint

    def compose(self) -> ComposeResult:
        with Vertical(classes="window"):
            yield Static(self._question, classes="question", markup=False)
            field = Input(compact=True)
            field.cursor_blink = False
            yield field
            yield Static(self._hint, classes="hint", markup=False)

    def complain(self, what: str) -> None:
        found = self.query_one(".hint", Static)
        found.update(f"✗ {what}")
        found.add_class("complaint")

    def check(self, text: str) -> str:
        return ""

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if wrong := self.check(event.value):
            self.complain(wrong)
        else:
            self.dismiss(event.value)

    def action_leave(self) -> None:
        self.dismiss(None)


class Help(ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "app.pop_screen", "close")]

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="window wide"):
            yield Static(HELP.replace("[ ]", r"\[ ]"))


class Payload(ModalScreen[None]):
    """One event as it is in the log."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "app.pop_screen", "close")]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title = title
        self._text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="window wide"):
            yield Static(self._title, classes="question", markup=False)
            yield Static(self._text, markup=False)
