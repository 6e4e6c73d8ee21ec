"""The metrics service: counts what happens and writes it into files, `metrics.prom`, `metrics.json` and `events.log`. The projector of the
read model runs in the same process, with a cursor of its own.

It decides nothing and appends nothing; its lease keeps a second one from writing the same files, and its commits only move its cursor.
What it has counted is on disk together with the position, so that a restart counts nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from mloc.core import codec, log_ids
from mloc.services.clock import Clock, SystemClock
from mloc.services.durable_files import replace_file, write_durably
from mloc.services.log.event_log import MAX_BATCH, Entry, EventLog, Fenced, LeaseHeld, LogError, LogUnavailable, ServerChanged
from mloc.services.log.projection_cursor import RENEW_SEC, ProjectionCursor
from mloc.services.log.same_entry import has_entry, payload_sha256
from mloc.services.metrics.counts import FORMAT, Counts
from mloc.services.metrics.event_lines import EventLines
from mloc.services.metrics.exposition import Surroundings, as_json, as_prometheus
from mloc.services.read_model.command import read_model_projector
from mloc.services.results.tree_cursor import cursor_path, read_state
from mloc.services.service_run import holder, run_service
from mloc.services.settings import Settings

NAME = "metrics"
BLOCK_MS = 400
PAUSE_SEC = 0.1  # who writes once a second need not wake for each event of an idle log
WRITE_SEC = 1.0
RETRY_SEC = 0.25
STATE_FILE = "counts.msgpack"


class Projector:
    """`folder` gets the files; the state is saved every `save_sec` and at the end. `waiting_callbacks` says how many receivers wait, where that
    is known."""

    def __init__(
        self, log: EventLog, clock: Clock, folder: Path, lines: EventLines, *, stop: asyncio.Event, save_sec: float = 20.0,
        trees: Path | None = None, waiting_callbacks: Callable[[], int | None] = lambda: None,
    ) -> None:  # fmt: skip
        self._log = log
        self._clock = clock
        self._folder = folder
        self._lines = lines
        self._stop = stop
        self._save_sec = save_sec
        self._trees = trees
        self._waiting_callbacks = waiting_callbacks
        self._say = structlog.get_logger().bind(service=NAME)
        self.counts = _load(folder / STATE_FILE)
        self._last_payload = b""
        self._cursor = ProjectionCursor(log, clock, NAME, holder())
        self._server_ms, self._server_at = 0, 0.0
        self._is_behind = False
        self._written = ""
        self._saved = self.counts.position
        self._write_at = self._save_at = 0.0

    async def run(self) -> None:
        """Until `stop` is set."""
        while not self._stop.is_set():
            try:
                await self._lead()
            except (Fenced, LeaseHeld):
                await self._clock.sleep(RENEW_SEC)
            except ServerChanged:
                await self._find_common_point()
            except LogUnavailable as error:
                self._say.warning("the event log cannot be reached; trying again", reason=str(error))
                await self._clock.sleep(RETRY_SEC)
        self._write(force=True)
        self._save()

    async def _lead(self) -> None:
        lease = await self._cursor.take()
        self._heard(lease.now_ms)
        self._save_at = self._clock.monotonic() + self._save_sec
        self._say.info("leading", epoch=lease.epoch, position=self.counts.position)
        while not self._stop.is_set():
            entries = await self._log.read(self.counts.position, MAX_BATCH, 0 if self._is_behind else BLOCK_MS)
            self._fold(entries)
            self._is_behind = len(entries) == MAX_BATCH
            await self._do_what_is_due()
            if entries and not self._is_behind:
                await self._clock.sleep(PAUSE_SEC)
        await self._cursor.move(self.counts.position)
        await self._cursor.release()

    async def _do_what_is_due(self) -> None:
        if (server_ms := await self._cursor.renew_when_due()) is not None:
            self._heard(server_ms)
        now = self._clock.monotonic()
        if now >= self._write_at:
            self._write_at = now + WRITE_SEC
            self._write()
            await self._cursor.move(self.counts.position)
        if now >= self._save_at:
            self._save_at = now + self._save_sec
            self._save()

    def _fold(self, entries: list[Entry]) -> None:
        counts, lines = self.counts, self._lines
        milliseconds, now = "", 0
        for entry in entries:
            id, type_, payload = entry
            event = codec.decode(type_, payload)
            if not id.startswith(milliseconds) or not milliseconds:
                milliseconds = id[: id.index("-") + 1]
                now = int(milliseconds[:-1])
            if isinstance(event, codec.UnknownEvent):
                counts.position = id
            else:
                counts.fold(id, now, type_, event)
            try:
                lines.add(id, event)
            except OSError as error:
                self._troubled("events.log", error)
        if entries:
            self._last_payload = entries[-1].payload

    # --- files ---

    def _write(self, *, force: bool = False) -> None:
        """What a person or a scraper reads; only where something changed."""
        around = self._surroundings()
        shown = f"{self.counts.position} {msgspec.structs.replace(around, updated_ms=0)}"
        if shown == self._written and not force:
            return
        try:
            self._lines.flush()
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(str(self._folder / "metrics.prom"), as_prometheus(self.counts, around))
            replace_file(str(self._folder / "metrics.json"), as_json(self.counts, around))
            self._written = shown
        except OSError as error:
            self._troubled("metrics", error)

    def _save(self) -> None:
        """The lines come first: after a crash the log is read again from what is saved, and lines that are there already are left out."""
        if self.counts.position == self._saved:
            return
        try:
            self._lines.flush()
            if self._last_payload:
                self.counts.entry_sha256 = payload_sha256(self._last_payload)
            write_durably(self._folder / STATE_FILE, [msgspec.msgpack.encode(self.counts)])
            self._saved = self.counts.position
        except OSError as error:
            self._troubled("counts", error)

    def _troubled(self, what: str, error: OSError) -> None:
        self._say.error(f"{what} could not be written; free some space", folder=str(self._folder), reason=error.strerror or str(error))

    def _surroundings(self) -> Surroundings:
        now_ms = self._now_ms()
        lag = (now_ms - log_ids.time_ms(self.counts.position)) / 1000 if self._is_behind else 0.0
        trees = read_state(self._trees) if self._trees is not None else None
        tree_lag = 0.0
        if trees is not None and log_ids.before(trees.written, self.counts.last_published):
            newest = log_ids.time_ms(self.counts.last_published)  # it waits since then, the oldest since the event after `written` at most
            tree_lag = max(0, newest - log_ids.time_ms(trees.written), now_ms - newest) / 1000
        return Surroundings(now_ms, max(0.0, lag), tree_lag, trees.failures if trees is not None else 0, self._waiting_callbacks())

    # --- the server ---

    def _heard(self, server_ms: int) -> None:
        self._server_ms, self._server_at = server_ms, self._clock.monotonic()

    def _now_ms(self) -> int:
        return self._server_ms + int((self._clock.monotonic() - self._server_at) * 1000)

    async def _find_common_point(self) -> None:
        """Go on where we were if the log still has that entry; else count it again from its start, where it has one."""
        try:
            if self.counts.position == log_ids.START or await self._is_in_log():
                await self._log.run_id()
                return
            first, _ = await self._log.ends()
            entry = await self._log.entry(first) if first != log_ids.START else None
        except LogError:
            await self._clock.sleep(RETRY_SEC)
            return
        if entry is None or entry.type == "LogStarted":
            self._say.error("the log lost its tail: counting it again", position=self.counts.position)
            self.counts, self._last_payload = Counts(), b""
            self._lines.go_back()
        else:
            self._say.error("the log lost its tail and its start is in the archive: what was lost stays counted", position=self.counts.position)

    async def _is_in_log(self) -> bool:
        known = payload_sha256(self._last_payload) if self._last_payload else self.counts.entry_sha256
        return await has_entry(self._log, self.counts.position, known)


def run(settings: Settings) -> int:
    """The service's process; gives the exit code."""
    folder = settings.state_dir / "metrics"

    async def serve(log: EventLog, stop: asyncio.Event) -> None:
        lines = EventLines(folder / "events.log", settings.log_max_bytes, settings.log_backup_count)
        async with read_model_projector(settings, stop) as read_model, asyncio.TaskGroup() as both:
            projector = Projector(
                log, SystemClock(), folder, lines, stop=stop, save_sec=settings.state_flush_interval_sec, trees=cursor_path(settings.state_dir),
                waiting_callbacks=lambda: read_model.waiting_callbacks,
            )  # fmt: skip
            both.create_task(projector.run())
            both.create_task(read_model.run())

    return run_service(settings, NAME, serve)


def _load(path: Path) -> Counts:
    try:
        counts = msgspec.msgpack.decode(path.read_bytes(), type=Counts)
    except (OSError, msgspec.MsgspecError):
        return Counts()
    return counts if counts.format == FORMAT else Counts()
