"""A job of many parts, under which the scheduler and a worker are killed; then the proof from the log that it ended right."""

from __future__ import annotations

import time
from collections import Counter

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
from mloc.services.intake.commands.log_session import Session
from mloc.services.intake.commands.output import COLOURS, GLYPHS
from mloc.services.intake.published_results import read_result, result_folder
from mloc.services.log.event_log import EventLog

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
    found = gathered(await all_events(session.log), watch.root)
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
        self._killed: dict[str, int] = {}  # who → when, by the server's clock in ms
        self._region = Region(None)
        self._said = (0, 0.0)

    async def run(self) -> None:
        with self._screen.region() as self._region:
            await self._watch.until(self._can_kill, self._look, TIMEOUT_SEC)
            pids = {"scheduler": self._kill("scheduler")}
            victim = max((part for part in self._shards() if part.phase == "running"), key=lambda part: part.started_ms)
            pids[victim.worker] = self._kill(victim.worker, f" while it runs {victim.id.rpartition('.')[2]}")
            for service, pid in pids.items():
                self._screen.say(f"  {service} is started again, as {await self._system.until_restarted(service, pid)}")
            await self._watch.until_ended(self._look, TIMEOUT_SEC)

    def check_came_back(self, found: Evidence) -> None:
        """By the log: the scheduler leads again, the worker registered again. Raises DemoFailed."""
        for name, killed_ms in self._killed.items():
            after = [comeback for comeback in found.comebacks.get(name, []) if comeback.at_ms > killed_ms]
            if not after:
                raise DemoFailed(f"the log does not show that {name} came back after its kill")
            what = "decides again, in epoch" if name == "scheduler" else "is registered again, as incarnation"
            self._screen.say(f"  {name:<14} {what} {after[0].number}, {(after[0].at_ms - killed_ms) / 1000:.1f} s after its kill")

    def _shards(self) -> list[Task]:
        return [part for part in self._watch.parts() if part.shard]

    def _can_kill(self) -> bool:
        shards = self._shards()
        return sum(part.phase == "published" for part in shards) >= KILL_AFTER and any(part.phase == "running" for part in shards)

    def _kill(self, service: str, why: str = "") -> int:
        """The pid that it had."""
        self._killed[service] = self._watch.session.now_ms()
        pid = self._system.kill(service)
        self._screen.say(f"  kill -9 {pid}: {service}{why}", style="bold red" if self._screen.draws else "")
        return pid

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


async def all_events(log: EventLog) -> list[tuple[str, Event]]:
    """(id, event) of the whole log from its first entry. Raises LogError."""
    position = log_ids.START
    found = []
    while entries := await log.read(position):
        position = entries[-1].id
        for entry in entries:
            event = codec.decode(entry.type, entry.payload)
            if isinstance(event, Event):
                found.append((entry.id, event))
    return found


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
    again = ", ".join(task.removeprefix(watch.root + ".") for task in found.tried_again) or "none"
    screen.say(f"  by the log     {len(found.submitted)} tasks, {found.published.total()} results published, each exactly once")
    screen.say(f"                 {found.started.total()} attempts started; cut off by the kill and run again: {again}")
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
