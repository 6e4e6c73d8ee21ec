"""The command `mloc-console`: the cluster in a terminal, live and as it was at any event."""

from __future__ import annotations

import argparse
import os
import pwd
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, cast

import structlog
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from mloc.console.chronicle import Chronicle
from mloc.console.events_screen import EventsScreen
from mloc.console.follower import Follower
from mloc.console.listed_entries import ArchiveError, open_archive
from mloc.console.live_log import LiveLog
from mloc.console.page import Page
from mloc.console.phases import TASK, THEME
from mloc.console.questions import Ask, Confirm, Help
from mloc.console.sources import RequestRefused, Source
from mloc.console.task_screen import TaskScreen
from mloc.console.tasks_screen import TasksScreen
from mloc.console.time_machine import TimeMachine
from mloc.console.view import View
from mloc.console.workers_screen import WorkersScreen
from mloc.core import log_ids, moment
from mloc.core import task as tasks
from mloc.core.cluster import Cluster
from mloc.core.events import CancelRequested, Event, RetryRequested
from mloc.services.log.event_log import LogError
from mloc.services.piped_output import ends_with_its_reader
from mloc.services.settings import SettingsError, load_settings
from mloc.services.shell_completion import SHELLS, script

SHOW_EVERY_SEC = 0.1
AGES_EVERY_SEC = 1.0
EXAMPLES = """examples:
  mloc-console                       the log of REDIS_URL, or of the `mloc up` in this folder
  mloc-console --read-only           look, but ask for nothing
  mloc-console --archive log.jsonl   a history in a file (.jsonl or .jsonl.zst)

? in the console explains the keys
"""


class ConsoleApp(App[None]):
    """Owns the source, the live state and the place in history; screens show the View that it gives them."""

    CSS_PATH = "console.tcss"
    TITLE = "MLOC"
    ENABLE_COMMAND_PALETTE = True
    MODES: ClassVar[dict[str, str | Callable[[], Screen[object]]]] = {"tasks": TasksScreen, "workers": WorkersScreen, "events": EventsScreen}
    DEFAULT_MODE = "tasks"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "screen_of('tasks')", "tasks", show=False),
        Binding("3", "screen_of('workers')", "workers", show=False),
        Binding("5", "screen_of('events')", "events", show=False),
        Binding("x", "cancel", "cancel"),
        Binding("r", "retry", "retry"),
        Binding("t", "travel", "time travel"),
        Binding("left", "step(-1)", "event before", show=False),
        Binding("right", "step(1)", "event after", show=False),
        Binding("shift+left", "step(-100)", "100 before", show=False),
        Binding("shift+right", "step(100)", "100 after", show=False),
        Binding("comma", "failure(-1)", "failure before", show=False),
        Binding("full_stop", "failure(1)", "failure after", show=False),
        Binding("at", "jump", "jump", show=False),
        Binding("question_mark", "help", "help"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, source: Source, *, read_only: bool = False) -> None:
        super().__init__()
        self.source = source
        self.read_only = read_only
        self.chronicle = Chronicle()
        self.machine = TimeMachine(source, self.chronicle)
        self.follower = Follower(source, self.chronicle)
        self.follower.on_other_log = self._other_log
        self._past: tuple[int, Cluster] | None = None  # where in history, and the state there; None: live
        self._target = 0  # the event that a person steps to; the state there may still be on its way
        self._travelling = False
        self._shown: tuple[object, ...] = ()
        self._ages_shown = 0.0

    async def on_mount(self) -> None:
        self.register_theme(THEME)
        self.theme = THEME.name
        self.run_worker(self.follower.run(), name="follow")
        self.set_interval(SHOW_EVERY_SEC, self._show_if_changed)

    async def on_unmount(self) -> None:
        await self.source.close()

    # --- showing ---

    @property
    def view(self) -> View:
        """What is shown now."""
        follower, total = self.follower, len(self.chronicle)
        ordinal, cluster = self._past if self._past is not None else (total, follower.cluster)
        now = log_ids.time_ms(cluster.position) if self._past is not None else self.source.now_ms()
        return View(
            cluster, ordinal, total, now, self._past is not None, follower.heartbeats,
            "" if self.source.is_live else self.source.name, follower.trouble, not follower.caught_up, follower.rate(), self.read_only,
        )  # fmt: skip

    def show_soon(self) -> None:
        """Show the screen anew within a tenth of a second."""
        self._shown = ()

    def _show_if_changed(self) -> None:
        screen = next(reversed(self.screen_stack), None)  # none while the app ends
        follower = self.follower
        changed = (screen, follower.version, self._past and self._past[0], follower.trouble, follower.caught_up)
        ages_due = time.monotonic() - self._ages_shown > AGES_EVERY_SEC
        if isinstance(screen, Page) and screen.is_drawn and (changed != self._shown or ages_due):
            self._shown = changed
            self._ages_shown = time.monotonic()
            screen.show(self.view)

    def _other_log(self) -> None:
        """The server lost its tail, or is another one: what was kept of it is void."""
        self.machine.forget()
        self._past = None
        for stack in self._screen_stacks.values():
            for screen in stack:
                if isinstance(screen, EventsScreen):
                    screen.forget()
        self.notify("the log is another one than before: it is read anew", severity="warning")

    # --- screens ---

    async def action_screen_of(self, name: str) -> None:
        if self.current_mode == name:
            while len(self.screen_stack) > 1:
                await self.pop_screen()
        else:
            await self.switch_mode(name)
        self.show_soon()

    def open_task(self, task: str) -> None:
        self.push_screen(TaskScreen(task))
        self.show_soon()

    def action_help(self) -> None:
        self.push_screen(Help())

    def get_system_commands(self, screen: Screen[object]) -> list[SystemCommand]:  # type: ignore[override]
        return [
            SystemCommand("Tasks", "all tasks", lambda: self.call_later(self.action_screen_of, "tasks")),
            SystemCommand("Workers", "the workers", lambda: self.call_later(self.action_screen_of, "workers")),
            SystemCommand("Events", "the control log", lambda: self.call_later(self.action_screen_of, "events")),
            SystemCommand("Time travel", "back to any event", self.action_travel),
            SystemCommand("Keys", "what the keys do", self.action_help),
        ]

    # --- requests ---

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Actions are grey in the past and in a console that only reads."""
        if action in ("cancel", "retry") and (self._past is not None or self.read_only or not self.source.is_live):
            return None
        return True

    def action_cancel(self) -> None:
        task = self._chosen()
        if task is None:
            return
        if not tasks.is_open(task):
            self.notify(f"{task.id} has ended already: it is {TASK[task.phase].word}", severity="warning")
            return
        detail = f"and its {len(task.children)} parts" if task.children else f"it is {TASK[task.phase].word} now"
        event = CancelRequested(task=task.id, by=_person(), reason=f"cancelled by {_person()} in the console")
        self._confirm(f"Cancel {task.id}?", detail, event, "cancel")

    def action_retry(self) -> None:
        task = self._chosen()
        if task is None:
            return
        if task.phase != "dead_lettered":
            self.notify(f"only a dead-lettered task can be retried; {task.id} is {TASK[task.phase].word}", severity="warning")
            return
        self._confirm(f"Retry {task.id}?", task.reason, RetryRequested(task=task.id, by=_person()), "retry")

    def _chosen(self) -> tasks.Task | None:
        screen = self.screen
        id = screen.chosen_task() if isinstance(screen, Page) else ""
        return self.follower.cluster.tasks.get(id)

    def _confirm(self, question: str, detail: str, event: Event, what: str) -> None:
        async def answered(yes: bool | None) -> None:
            if not yes:
                return
            try:
                await self.source.submit([event])
            except (LogError, RequestRefused) as error:
                self.notify(f"the {what} was not sent: {error}", severity="error", timeout=10)
            else:
                self.notify(f"{what} asked for")

        self.push_screen(Confirm(question, detail), answered)

    # --- time travel ---

    def action_travel(self) -> None:
        """Into the past, at the event under the cursor where events are shown; or back to live."""
        if self._past is not None:
            self._past = None
            self._after_travel()
            return
        screen = self.screen
        self._go(screen.chosen_ordinal() if isinstance(screen, EventsScreen) else len(self.chronicle))

    def action_step(self, by: int) -> None:
        if self._past is not None or by < 0:
            self._go((self._target if self._past is not None else len(self.chronicle)) + by)

    def action_failure(self, direction: int) -> None:
        here = self._target if self._past is not None else len(self.chronicle) + 1
        found = self.chronicle.failure_before(here) if direction < 0 else self.chronicle.failure_after(here)
        if found is None:
            self.notify(f"no failure {'before' if direction < 0 else 'after'} this")
        else:
            self._go(found)

    def action_jump(self) -> None:
        app = self

        class Jump(Ask):
            def check(self, text: str) -> str:
                try:
                    at = app.chronicle.ordinal_of(moment.parse(text, app.source.now_ms()))
                except ValueError as error:
                    return str(error)
                if not at:
                    return "nothing had happened yet"
                app._go(at)
                return ""

        self.push_screen(Jump("Go to which point of history?", f"it takes {moment.ACCEPTED}"))

    def _go(self, ordinal: int) -> None:
        """Steps come faster than states: only the last one that was asked for is shown."""
        if not len(self.chronicle):
            self.notify("nothing has happened yet")
            return
        self._target = max(1, min(ordinal, len(self.chronicle)))
        if not self._travelling:
            self._travelling = True
            self.run_worker(self._travel())

    async def _travel(self) -> None:
        try:
            arrived = -1
            while arrived != self._target:
                arrived = self._target
                self._past = (arrived, await self.machine.at(arrived))
                self._after_travel()
        except LogError as error:
            self.notify(f"the past cannot be read now: {error}", severity="error")
        finally:
            self._travelling = False

    def _after_travel(self) -> None:
        self.show_soon()
        self._show_if_changed()
        self.refresh_bindings()


@ends_with_its_reader
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit code: 0, or 2 where the command line or a setting is wrong."""
    about = "The cluster in a terminal: tasks, workers, events, live and as they were at any event."
    parser = argparse.ArgumentParser(
        prog="mloc-console", description=about, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--read-only", action="store_true", help="ask for nothing: no cancel, no retry")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="show a history from a file instead of the live log")
    parser.add_argument("--completion", choices=SHELLS, help="print a script that completes the options in a shell")
    parsed = parser.parse_args(arguments)
    if parsed.completion:
        print(script(parser, parsed.completion))
        return 0
    # whatever would be logged to the terminal would be drawn over: what matters is in the banner
    structlog.configure(processors=[_drop])
    try:
        source = cast(Source, open_archive(parsed.archive) if parsed.archive else LiveLog(load_settings(), read_only=parsed.read_only))
    except (SettingsError, ArchiveError, OSError) as error:
        print(f"mloc-console: {error}", file=sys.stderr)
        return 2
    if not sys.stdout.isatty():
        print("mloc-console: it needs a terminal; for scripts there are `mloc-intake list --json` and `mloc-replay at now --json`", file=sys.stderr)
        return 2
    app = ConsoleApp(source, read_only=parsed.read_only or parsed.archive is not None)
    app.run()
    return app.return_code or 0


def _drop(_logger: object, _name: str, _event: object) -> structlog.typing.ProcessorReturnValue:
    raise structlog.DropEvent


def _person() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


if __name__ == "__main__":
    sys.exit(main())
