"""Keeps the read model at the log's heels: folds the log as every service does and writes the tasks that changed, about once a second.

It decides nothing. Its lease keeps a second one from doing the same work, its commits move the cursor `readmodel` of the log, so that nothing
is trimmed that the tables lack; what keeps them right is the cursor inside them, which is written together with the rows. It starts at that
cursor with a snapshot of the fold from before; where there is none, it folds from the start and writes nothing until it is there.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import structlog
from msgspec.structs import replace

from mloc.core import log_ids
from mloc.core.cluster import Cluster
from mloc.services.clock import Clock
from mloc.services.log.event_log import MAX_BATCH, Entry, EventLog, Fenced, LeaseHeld, LogUnavailable, ServerChanged
from mloc.services.log.projection_cursor import RENEW_SEC, ProjectionCursor
from mloc.services.log.same_entry import has_entry, payload_sha256
from mloc.services.read_model.gathering import Gathering
from mloc.services.read_model.writer import CursorMoved, Writer
from mloc.services.service_loop import SnapshotKeeper
from mloc.services.service_run import holder

NAME = "readmodel"
BLOCK_MS = 400
PAUSE_SEC = 0.1  # nobody waits for the tables: readers add what they lack from memory
WRITE_SEC = 1.0
MOST_TOUCHED = 4000  # tasks before they are written sooner
RETRY_SEC = 0.5
TROUBLE_SEC = 5.0


class Projector:
    """Ends at `stop`, and where `until_end`, at the log's end as well."""

    def __init__(
        self, log: EventLog, clock: Clock, path: Path, *, stop: asyncio.Event, snapshots: SnapshotKeeper | None = None, until_end: bool = False
    ) -> None:
        self._log = log
        self._clock = clock
        self._path = path
        self._stop = stop
        self._snapshots = snapshots
        self._until_end = until_end
        self._say = structlog.get_logger().bind(service=NAME)
        self._writer: Writer | None = None
        self._gathering = Gathering(Cluster(), {})
        self._last_payload = b""
        self._is_behind = True
        self._folded = 0
        self._cursor = ProjectionCursor(log, clock, NAME, holder())
        self._write_at = 0.0

    async def run(self) -> None:
        """Until it is stopped."""
        while not self._stop.is_set():
            try:
                if await self._lead():
                    break
            except (Fenced, LeaseHeld):
                await self._clock.sleep(RENEW_SEC)
            except ServerChanged:
                self._say.warning("the server is another run: comparing the log with the read model")
            except CursorMoved:
                self._say.info("the read model was emptied or written by another one: going on from its cursor")
            except LogUnavailable as error:
                self._say.warning("the event log cannot be reached; trying again", reason=str(error))
                await self._clock.sleep(RETRY_SEC)
            except (sqlite3.Error, OSError) as error:
                await self._mend(error)
        if self._writer is not None:
            self._writer.close()

    async def _lead(self) -> bool:
        """True at its good end."""
        self._is_behind = True
        lease = await self._cursor.take()
        writer = self._writer = self._writer or Writer(self._path)
        await self._find_start(writer)
        self._say.info("leading", epoch=lease.epoch, position=writer.cursor.position)
        is_at_end = False
        while not self._stop.is_set():
            entries = await self._log.read(self._position, MAX_BATCH, 0 if self._is_behind else BLOCK_MS)
            self._fold(entries, writer.cursor.position)
            self._is_behind, is_at_end = len(entries) == MAX_BATCH, not entries
            await self._do_what_is_due(writer, is_at_end=is_at_end)
            if is_at_end and self._until_end:
                break
            if entries and not self._is_behind:
                await self._clock.sleep(PAUSE_SEC)
        await self._write(writer, is_at_end=is_at_end)
        self._offer_snapshot(final=True)
        await self._cursor.release()
        return True

    @property
    def waiting_callbacks(self) -> int | None:
        """Receivers that wait to be told of an end, as the log's newest entries have it; None while those are not folded here."""
        return None if self._is_behind else len(self._gathering.cluster.calls)

    @property
    def _position(self) -> str:
        return self._gathering.cluster.position

    def _fold(self, entries: list[Entry], written: str) -> None:
        gathering = self._gathering
        for entry in entries:
            gathering.fold(entry)
            if entry.id == written:
                gathering.start()
        if entries:
            self._last_payload = entries[-1].payload
            self._folded += len(entries)

    async def _do_what_is_due(self, writer: Writer, *, is_at_end: bool) -> None:
        await self._cursor.renew_when_due()
        if self._clock.monotonic() >= self._write_at or self._gathering.count() >= MOST_TOUCHED:
            await self._write(writer, is_at_end=is_at_end)
            self._write_at = self._clock.monotonic() + WRITE_SEC
            self._offer_snapshot()

    async def _write(self, writer: Writer, *, is_at_end: bool) -> None:
        """Put what changed into the tables, then tell the log how far they are."""
        cluster, there = self._gathering.cluster, writer.cursor
        if cluster.touched is not None and (cluster.position != there.position or (is_at_end and not there.is_complete)):
            sha256 = payload_sha256(self._last_payload) if self._last_payload else there.entry_sha256
            cursor = replace(
                there, log_id=cluster.log_id, position=cluster.position, entry_sha256=sha256, is_complete=there.is_complete or is_at_end
            )
            changes = self._gathering.take()
            await asyncio.to_thread(writer.write, changes, cursor)
        await self._cursor.move(writer.cursor.position)

    # --- where to go on ---

    async def _find_start(self, writer: Writer) -> None:
        """Compare the tables with the log; then a fold that is not beyond them."""
        cursor = writer.look_again()
        first, _ = await self._log.ends()
        beginning = await self._log.entry(first) if first != log_ids.START else None
        if cursor.position != log_ids.START and not await has_entry(self._log, cursor.position, cursor.entry_sha256):
            self._say.error("the log is not the one that the read model was made from: building it anew", position=cursor.position)
            await asyncio.to_thread(writer.start_anew, "")
        self._gathering = Gathering(await self._loaded(writer.cursor.position), writer.due())
        self._last_payload = b""
        if self._position == writer.cursor.position:
            self._gathering.start()
        if self._position == log_ids.START and beginning is not None and beginning.type != "LogStarted":
            self._say.error("the log's beginning is gone, and there is no snapshot from before: older tasks are missing from the read model")
            if writer.cursor.position != log_ids.START:
                await asyncio.to_thread(writer.start_anew, "")
                self._gathering = Gathering(Cluster(), {})
                self._gathering.start()
            writer.cursor = replace(writer.cursor, is_partial=True)

    async def _loaded(self, most: str) -> Cluster:
        """A fold of this log at `most` or before."""
        loaded = await asyncio.to_thread(self._snapshots.load) if self._snapshots is not None and most != log_ids.START else None
        if loaded is None:
            return Cluster()
        cluster, sha256 = loaded
        return cluster if not log_ids.before(most, cluster.position) and await has_entry(self._log, cluster.position, sha256) else Cluster()

    def _offer_snapshot(self, *, final: bool = False) -> None:
        """Only at the tables' own cursor: one from beyond it could not be used."""
        writer = self._writer
        if self._snapshots is None or writer is None or writer.cursor.position != self._position or self._position == log_ids.START:
            return
        now = self._clock.monotonic()
        self._snapshots.offer(self._gathering.cluster, writer.cursor.entry_sha256, now=now, folded=self._folded, final=final)

    async def _mend(self, error: sqlite3.Error | OSError) -> None:
        """A damaged file is put aside and built anew; a full disk is waited for."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            aside = self._path.with_suffix(".damaged")
            self._say.error("the read model is damaged: building it anew", reason=str(error), kept_as=str(aside))
            for suffix in ("", "-wal", "-shm"):
                with_suffix = self._path.with_name(self._path.name + suffix)
                if with_suffix.exists():
                    with_suffix.replace(aside.with_name(aside.name + suffix))
            return
        self._say.error("the read model could not be written; trying again", file=str(self._path), reason=str(error))
        await self._clock.sleep(TROUBLE_SEC)
