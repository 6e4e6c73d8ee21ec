"""The demo from start to end: its own MLOC, the main job, the kills, the proof, the clean stop.

    mloc demo                  in ./demo/<time>
    mloc demo --dir FOLDER     in a new folder of that name
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from mloc.core import log_ids
from mloc.core.language.errors import LanguageError
from mloc.services.demo import readiness
from mloc.services.demo.failure import DemoFailed
from mloc.services.demo.main_job import run_main_job
from mloc.services.demo.own_system import WORKERS, OwnSystem
from mloc.services.demo.screen import Screen
from mloc.services.demo.survival import run_survival
from mloc.services.exit_codes import CLEAN
from mloc.services.intake.commands.log_session import Session, opened
from mloc.services.log import snapshots
from mloc.services.log.event_log import LogError
from mloc.services.server.address import NoServerError
from mloc.services.settings import Settings
from mloc.services.signals import stop_on_signals

INTERRUPTED = 130
PROVEN = ("scheduler", "aggregator")  # services that hold the cluster's state and write it down
SNAPSHOT_PATIENCE_SEC = 15.0


def run(settings: Settings, folder: Path | None = None, port: int | None = None) -> int:
    """Gives the exit code: 0 only where everything was as it should be and nothing is left running."""
    screen, began = Screen(), time.monotonic()
    try:
        system = _prepared(settings, folder or Path("demo") / time.strftime("%Y%m%d-%H%M%S"), port, screen)
        if not asyncio.run(_run(system, screen)):
            screen.say(f"  interrupted; what it made is in {system.folder}")
            return INTERRUPTED
    except DemoFailed as error:
        for line in str(error).splitlines():
            print(f"mloc demo: {line}", file=sys.stderr)
        return error.code
    _say_what_next(system, screen, time.monotonic() - began)
    return CLEAN


def _prepared(settings: Settings, folder: Path, port: int | None, screen: Screen) -> OwnSystem:
    """Nothing is started yet. Raises DemoFailed for what would not go well."""
    screen.say("MLOC demo: train a model, tune it, ask it on two workers, kill services under it, prove the state.", style="bold")
    readiness.check_libraries()
    port = readiness.free_port(port)
    readiness.check_disk(folder, settings.min_free_disk)
    return OwnSystem(readiness.make_folder(folder), port)


async def _run(system: OwnSystem, screen: Screen) -> bool:
    """False where it was interrupted; whatever happens, everything is stopped on return. Raises DemoFailed."""
    acts = asyncio.ensure_future(_all_acts(system, screen))

    def interrupt(_: signal.Signals) -> None:
        acts.cancel()

    interrupted = stop_on_signals(interrupt, system.end_at_once)
    try:
        await acts
    except asyncio.CancelledError:
        if not interrupted.is_set():
            raise
    except (LogError, NoServerError, LanguageError, OSError) as error:
        raise DemoFailed(str(error)) from error
    finally:
        screen.title("Stopping everything" + (" (ctrl-C again: at once)" if interrupted.is_set() else ""))
        count = await system.stop()
        screen.say(f"  all {count} processes that were started have ended")
    return not interrupted.is_set()


async def _all_acts(system: OwnSystem, screen: Screen) -> None:
    screen.title(f"1  Start: event log, scheduler, aggregator, metrics, API and {WORKERS} workers, in {system.folder}")
    began = time.monotonic()
    record = await system.start()
    screen.say(f"  up after {time.monotonic() - began:.1f} s: {len(record.services)} services and the event log; API {record.api}")
    working = asyncio.ensure_future(_work(system, screen))
    ending = asyncio.ensure_future(system.until_ended())
    try:
        await asyncio.wait([working, ending], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
        else:
            raise DemoFailed(f"`mloc up` ended by itself: {ending.result()}")
    finally:
        for one in (working, ending):
            one.cancel()
        await asyncio.gather(working, ending, return_exceptions=True)


async def _work(system: OwnSystem, screen: Screen) -> None:
    """What the demo shows. Raises DemoFailed."""
    async with _following(system) as session:
        screen.title("2  The main job: one pipeline in YAML (mloc-intake templates tiny_pipeline)")
        await run_main_job(session, screen)
        screen.title("3  Kills: a second pipeline of 24 parts, and kill -9 for the scheduler and for a worker in the middle of it")
        await run_survival(session, system, screen)
        screen.title("4  The proof: the state computed anew from the log, beside what the services hold")
        await _until_snapshots(system, session)
    await _verify(system, screen)


@contextlib.asynccontextmanager
async def _following(system: OwnSystem) -> AsyncIterator[Session]:
    """A reader of the demo's log that keeps up with it."""
    async with opened(system.settings) as session:
        following = asyncio.create_task(session.observer.follow())
        try:
            await session.look_at_clock()
            yield session
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


async def _until_snapshots(system: OwnSystem, session: Session) -> None:
    """Until the services have written down their state at the log's present end, so that the proof covers all of it. Raises DemoFailed."""
    _, last = await session.log.ends()
    deadline = time.monotonic() + SNAPSHOT_PATIENCE_SEC
    while late := [name for name in PROVEN if not _has_snapshot(system, name, last)]:
        if time.monotonic() > deadline:
            raise DemoFailed(f"{' and '.join(late)} wrote no snapshot of the log's entry {last} in {system.settings.state_dir / 'snapshots'}")
        await asyncio.sleep(0.1)


def _has_snapshot(system: OwnSystem, service: str, position: str) -> bool:
    """Whether the service has written down its state at this entry of the log or a later one."""
    newest = snapshots.newest_good(system.settings.state_dir / "snapshots", service)
    return newest is not None and not log_ids.before(newest.header.id, position)


async def _verify(system: OwnSystem, screen: Screen) -> None:
    arguments = ("verify", "--require", ",".join(PROVEN))
    screen.say(f"  $ mloc-replay {' '.join(arguments)}")
    code, said = await system.run_command("mloc.replay.cli", *arguments)
    for line in said.splitlines():
        screen.say(f"  {line}")
    if code != CLEAN:
        raise DemoFailed(f"mloc-replay verify ended with exit code {code}: the services' state is not the one that the log gives")


def _say_what_next(system: OwnSystem, screen: Screen, seconds: float) -> None:
    folder, activate = _from_here(system.folder), Path(sys.prefix) / "bin" / "activate"
    first = f". {shlex.quote(str(_from_here(activate)))} && " if not shutil.which("mloc") and activate.is_file() else ""
    screen.title(f"Done in {seconds:.0f} s. All of it is kept in {folder}: results, state, logs")
    screen.say("  To look at it again, with the same log, in each of two terminals first:")
    screen.say(f"    {first}cd {shlex.quote(str(folder))}")
    screen.say("  then in one of them:")
    screen.say("    mloc up --workers 2                 the event log, the services, two workers")
    screen.say("  and in the other:")
    screen.say("    mloc-console                        every task and worker, live and as it was at any earlier event")
    screen.say("    mloc-intake list                    what ran; then mloc-intake show, result or logs, and a task's id")
    screen.say("    mloc-replay at '#40'                the state after the first 40 events, from the log")
    screen.say("    mloc-intake templates               pipelines to start from; mloc-intake submit --template echo --wait")


def _from_here(path: Path) -> Path:
    """Relative where it lies below the working folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
