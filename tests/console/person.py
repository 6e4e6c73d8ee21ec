"""A person at the console, for its tests: presses keys, and waits until the screen shows what it should."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from textual.pilot import Pilot

from mloc.console.app import ConsoleApp
from mloc.console.listed_entries import ListedEntries
from mloc.console.row_table import RowTable
from mloc.core.events import Error
from tests.histories import History

SIZE = (100, 30)


def a_history() -> History:
    """One task failed for good, a pipeline is done, one task runs on, one waits for a worker that is not there."""
    outcomes = {"bad": Error("ValueError", "no such column", retryable=False), "long": None}
    made = History(outcome=lambda task, attempt: outcomes.get(task, {"ok": True, "items": [task]}))
    made.worker("w1")
    made.worker("w2", devices=2)
    for task in ("good", "bad", "long"):
        made.submit(task)
    made.submit("odd", "dpo")
    made.pipeline("p", {"train": "sft", "infer": "inference"})
    made.settle()
    return made


def screen_text(app: ConsoleApp) -> str:
    """What is on the terminal, line by line."""
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in app.screen._compositor.render_strips())


class Person:
    """Presses keys, and waits until the screen shows what it should."""

    def __init__(self, pilot: Pilot[None], app: ConsoleApp) -> None:
        self._pilot = pilot
        self.app = app

    async def press(self, *keys: str) -> None:
        await self._pilot.press(*keys)

    async def sees(self, *texts: str) -> str:
        return await self.waits_for(lambda shown: all(text in shown for text in texts), f"{texts} on the screen")

    async def sees_no(self, text: str) -> str:
        return await self.waits_for(lambda shown: text not in shown, f"no {text!r} on the screen")

    async def waits_for(self, is_so: Callable[[str], bool], what: str) -> str:
        deadline = time.monotonic() + 10
        while not is_so(shown := screen_text(self.app)):
            assert time.monotonic() < deadline, f"waited for {what}; the screen shows\n{shown}"
            await self._pilot.pause(0.02)
        return shown

    async def clicks(self, widget: type[RowTable], offset: tuple[int, int]) -> None:
        await self._pilot.click(widget, offset=offset)


@asynccontextmanager
async def opened(source: ListedEntries, size: tuple[int, int] = SIZE, **options: bool) -> AsyncIterator[Person]:
    app = ConsoleApp(source, **options)
    async with app.run_test(size=size, notifications=True) as pilot:
        person = Person(pilot, app)
        await person.sees("showing")
        yield person
