"""Runs the projector of the read model: beside the metrics for as long as they run, or once, to build it anew (`mloc read-model rebuild`)."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mloc.core import log_ids
from mloc.services.clock import SystemClock
from mloc.services.exit_codes import CLEAN, FAILED, UNAVAILABLE
from mloc.services.garbage_collection import collect_seldom
from mloc.services.log.cluster_snapshots import ClusterSnapshots
from mloc.services.log.connection import open_log
from mloc.services.log.event_log import EventLog, LogUnavailable
from mloc.services.read_model.projector import NAME, Projector
from mloc.services.read_model.reader import Reader, Unreadable
from mloc.services.read_model.schema import Cursor, read_model_path
from mloc.services.read_model.writer import Writer
from mloc.services.service_run import snapshots_of
from mloc.services.settings import Settings
from mloc.services.signals import stop_on_signals

SHOWN_EVERY_SEC = 0.5


@asynccontextmanager
async def read_model_projector(settings: Settings, stop: asyncio.Event) -> AsyncIterator[Projector]:
    """With a connection of its own."""
    log = open_log(settings, NAME)
    try:
        yield _projector(settings, log, stop)
    finally:
        await log.close()


def rebuild(settings: Settings) -> int:
    """Empties the read model and waits until it is whole again; gives the exit code. Services may go on meanwhile."""
    collect_seldom()
    path = read_model_path(settings.state_dir)
    try:
        writer = Writer(path)
        writer.start_anew("")
        writer.close()
    except sqlite3.DatabaseError as error:
        print(f"mloc read-model: {path} cannot be emptied ({error}); stop `mloc metrics` or `mloc up`, delete the file, start again", file=sys.stderr)
        return FAILED
    return asyncio.run(_build(settings))


async def _build(settings: Settings) -> int:
    """Whoever has the lease builds: the metrics service where it runs, else this process."""
    log = open_log(settings, NAME)
    watched = open_log(settings, NAME)
    stop = stop_on_signals()
    reader = Reader(read_model_path(settings.state_dir))
    building = asyncio.create_task(_projector(settings, log, stop, until_end=True).run())
    began = time.monotonic()
    try:
        first, last = await watched.ends()
        while not (cursor := _looked_at(reader)).is_complete and not stop.is_set():
            if building.done():
                building.result()
            _show(cursor, first, last)
            await asyncio.sleep(SHOWN_EVERY_SEC)
    except LogUnavailable as error:
        print(f"\nmloc read-model: {error}", file=sys.stderr)
        return UNAVAILABLE
    finally:
        stop.set()
        await building
        reader.close()
        await log.close()
        await watched.close()
    if not cursor.is_complete:
        print("\nmloc read-model: stopped before it was whole; `mloc metrics` goes on where it stands", file=sys.stderr)
        return FAILED
    print(f"\r\x1b[Kthe read model is whole, up to {cursor.position}, after {time.monotonic() - began:.1f} s")
    return CLEAN


def _projector(settings: Settings, log: EventLog, stop: asyncio.Event, *, until_end: bool = False) -> Projector:
    snapshots: ClusterSnapshots = snapshots_of(settings, NAME)
    return Projector(log, SystemClock(), read_model_path(settings.state_dir), stop=stop, snapshots=snapshots, until_end=until_end)


def _looked_at(reader: Reader) -> Cursor:
    try:
        return reader.cursor()
    except Unreadable:  # it is being made
        return Cursor("")


def _show(cursor: Cursor, first: str, last: str) -> None:
    span = max(1, log_ids.time_ms(last) - log_ids.time_ms(first))
    share = max(0.0, min(1.0, (log_ids.time_ms(cursor.position) - log_ids.time_ms(first)) / span))
    if sys.stdout.isatty():
        print(f"\r\x1b[Kreading the log: {share:4.0%} of its time, up to {cursor.position}", end="", flush=True)
