"""A job of many parts, under which the scheduler and a worker are killed; then the proof from the log that it ended right."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator

import msgspec
from rich.text import Text

from mloc.core import codec, log_ids
from mloc.core.events import Event
from mloc.core.task import Task
from mloc.services.demo.evidence import Evidence, gathered, objections
from mloc.services.demo.failure import DemoFailed
from mloc.services.demo.own_system import OwnSystem
from mloc.services.demo.screen import Region, Screen
from mloc.services.demo.watch import Watch, submit_template
from mloc.services.event_log import EventLog
from mloc.services.intake.cli_output import COLOURS, GLYPHS
from mloc.services.intake.cli_session import Session
from mloc.services.intake.published_results import read_result, result_folder

TEMPLATE = "many_parts"
TIMEOUT_SEC = 180.0
KILL_AFTER = 4  # parts done
SAY_EVERY_SEC = 2.0


class Echoed(msgspec.Struct, frozen=True):
    index: int
    prompt: str
    output: str


class EchoResult(msgspec.Struct, frozen=True):
    items: list[Echoed]


async def run_survival(session: Session, system: OwnSystem, screen: Screen) -> None:
    """Raises DemoFailed where the job does not end right, or what was killed does not come back."""
    watch = Watch(session, await submit_template(session, TEMPLATE))
    screen.say(f"  submitted {watch.root}")
    act = _KillingAct(watch, system, screen)
    await act.run()
    await watch.until_written()
    found = gathered([event async for event in all_events(session.log)], watch.root)
    items = await _items(session, next(part for part in watch.parts() if part.stage == "work"))
    act.check_came_back(found)
    if wrong := objections(found):
        raise DemoFailed(f"by the log, the job did not end right: {'; '.join(wrong[:5])}")
    _show(found, items, watch, screen)


class _KillingAct:
    """Watches the parts, and at the right moment kills and waits for the restarts."""

    def __init__(self, watch: Watch, system: OwnSystem, screen: Screen) -> None:
        self._watch = watch
        self._system = system
        self._screen = screen
        self._before: dict[str, int] = {}  # who was killed → its newest epoch or incarnation before
        self._region = Region(None)
        self._said = (0, 0.0)

    async def run(self) -> None:
        with self._screen.region() as self._region:
            await self._watch.until(self._can_kill, self._look, TIMEOUT_SEC)
            victim = next(part for part in self._shards() if part.phase == "running")
            found = gathered([event async for event in all_events(self._watch.session.log)], self._watch.root)
            self._before = {"scheduler": found.elections["scheduler"][-1], victim.worker: found.registrations[victim.worker][-1]}
            await self._kill("scheduler", "")
            await self._kill(victim.worker, f" while it runs {victim.id.rpartition('.')[2]}")
            await self._watch.until_ended(self._look, TIMEOUT_SEC)

    def check_came_back(self, found: Evidence) -> None:
        """By the log: the scheduler leads in a later epoch, the worker registered as a newer incarnation. Raises DemoFailed."""
        now = {"scheduler": found.elections["scheduler"][-1]} | {worker: numbers[-1] for worker, numbers in found.registrations.items()}
        for name, before in self._before.items():
            if now[name] <= before:
                raise DemoFailed(f"the log does not show that {name} came back after its kill")
            what = "leads again, in epoch" if name == "scheduler" else "registered again, as incarnation"
            self._screen.say(f"  {name} {what} {now[name]} (before the kill: {before})")

    def _shards(self) -> list[Task]:
        return [part for part in self._watch.parts() if part.shard]

    def _can_kill(self) -> bool:
        shards = self._shards()
        return sum(part.phase == "published" for part in shards) >= KILL_AFTER and any(part.phase == "running" for part in shards)

    async def _kill(self, service: str, why: str) -> None:
        pid = self._system.kill(service)
        began = time.monotonic()
        self._screen.say(f"  kill -9 {pid}: {service}{why}", style="bold red" if self._screen.draws else "")
        self._look()
        started = await self._system.until_restarted(service, pid)
        self._screen.say(f"  {service} is started again after {time.monotonic() - began:.1f} s, as {started}")

    def _look(self) -> None:
        shards = self._shards()
        phases = Counter(part.phase for part in shards)
        self._region.draw(_cells(shards))
        done, at = self._said
        now = time.monotonic()
        if phases["published"] != done and (now - at > SAY_EVERY_SEC or phases["published"] == len(shards)):
            self._said = (phases["published"], now)
            running = ", ".join(f"{part.id.rpartition('.')[2]} on {part.worker}" for part in shards if part.phase == "running")
            self._screen.change(f"{phases['published']}/{len(shards)} parts done" + (f"; {running}" if running else ""))


async def all_events(log: EventLog) -> AsyncIterator[Event]:
    """The whole log from its first entry. Raises LogError."""
    position = log_ids.START
    while entries := await log.read(position):
        position = entries[-1].id
        for entry in entries:
            event = codec.decode(entry.type, entry.payload)
            if isinstance(event, Event):
                yield event


async def _items(session: Session, work: Task) -> list[Echoed]:
    """The merged items of all parts. Raises DemoFailed where one is missing, twice, or not what went in."""
    result = await read_result(session.log, session.results_dir, work)
    if result is None:
        raise DemoFailed(f"the result of {work.id} is neither in {session.results_dir} nor in the log")
    items = msgspec.json.decode(result, type=EchoResult).items
    if [item.index for item in items] != list(range(work.items)) or any(item.output != item.prompt for item in items):
        raise DemoFailed(f"the result of {work.id} does not hold each of its {work.items} items once and in order: {items}")
    return items


def _show(found: Evidence, items: list[Echoed], watch: Watch, screen: Screen) -> None:
    tasks, starts = len(found.submitted), found.started.total()
    screen.say(f"  by the log     {tasks} tasks, {found.published.total()} results published, each exactly once")
    again = ", ".join(task.removeprefix(watch.root + ".") for task in found.tried_again) or "none"
    screen.say(f"                 {starts} attempts started, {found.lost.total()} lost with their worker; run again: {again}")
    screen.say(f"  by the result  {len(items)} items, none missing, none twice, in order: {items[0].output} … {items[-1].output}")
    screen.say(f"  results        {result_folder(watch.session.results_dir, watch.root)}")


def _cells(shards: list[Task]) -> Text:
    """One glyph a part, and who runs what."""
    text = Text("  ")
    for part in shards:
        text.append(GLYPHS[part.phase], style=COLOURS.get(part.phase, "dim"))
    done = sum(part.phase == "published" for part in shards)
    running = ", ".join(f"{part.id.rpartition('.')[2]} on {part.worker}" for part in shards if part.phase == "running")
    return text.append(f"  {done}/{len(shards)} parts done" + (f"; {running}" if running else ""))
