"""A reader's fold of the log, without a lease: what the API, the commands, the console and replay see.

    observer = Observer(log)
    await observer.catch_up()                 # to the tail, once
    await observer.follow(on_batch, stop)     # from there on, for ever; comes back by itself when the server goes away

The cluster is as true as the services' own: the same `evolve` over the same order. A reader skips what it does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from mloc.core import codec, log_ids
from mloc.core.cluster import Cluster
from mloc.core.codec import CodecError, UnknownEvent
from mloc.core.events import Event
from mloc.core.fold import evolve
from mloc.services.clock import Clock, SystemClock
from mloc.services.log.event_log import MAX_BATCH, Entry, EventLog, LogUnavailable, ServerChanged
from mloc.services.log.same_entry import has_entry, payload_sha256
from mloc.services.service_loop import SnapshotKeeper

IDLE_BLOCK_MS = 1000
RETRY_SEC = 0.25


class Observed(NamedTuple):
    """One folded entry: its id, its event (UnknownEvent where this program does not know it), and the payload as it is in the log."""

    id: str
    event: Event | UnknownEvent
    payload: bytes


OnBatch = Callable[[Sequence[Observed]], None]


class Observer:
    """`cluster` is replaced (and `rebuilds` counted) when the server lost its tail; hold no reference to it across an await."""

    def __init__(self, log: EventLog, *, clock: Clock | None = None, snapshots: SnapshotKeeper | None = None) -> None:
        self._log = log
        self._clock: Clock = clock or SystemClock()
        self._snapshots = snapshots
        self._last_payload = b""  # of the entry at the position
        self._known_sha256 = ""  # the same, where the position came from a snapshot
        self._doubtful = True  # the log was not compared yet with what was folded: a snapshot, or before the server changed
        self._moved = asyncio.Event()  # set and replaced at every batch
        self.cluster = Cluster()
        self.rebuilds = 0
        self.caught_up = False  # whether the tail was reached at least once
        self.trouble = ""  # why the log cannot be read now; "" while it can
        self.listeners: list[OnBatch] = []  # told of every batch, whoever asked for it to be folded
        self._load_snapshot()

    @property
    def is_settled(self) -> bool:
        """Whether the log is the one that was folded, as far as this reader was told."""
        return not self._doubtful

    async def catch_up(self, on_batch: OnBatch | None = None) -> None:
        """Fold to the tail. Raises LogUnavailable where the log cannot be read."""
        while True:
            try:
                entries = await self._entries(0)
            except ServerChanged:
                continue
            if not entries:
                self.caught_up = True
                return
            self._fold(entries, on_batch)
            await asyncio.sleep(0)  # others may run between two batches, also on a log that never waits

    async def follow(self, on_batch: OnBatch | None = None, stop: asyncio.Event | None = None) -> None:
        """Fold what comes until `stop` is set (or the task is cancelled); `on_batch` gets at most 256 entries at a time, folded already."""
        while stop is None or not stop.is_set():
            try:
                if not self.caught_up:
                    await self.catch_up(on_batch)
                entries = await self._entries(IDLE_BLOCK_MS)
                self._recovered()
                if entries:
                    self._fold(entries, on_batch)
                    await asyncio.sleep(0)
            except ServerChanged:
                continue  # compared before the next read
            except LogUnavailable as error:
                self._troubled(str(error))
                await self._clock.sleep(RETRY_SEC)

    async def reach(self, position: str, timeout_sec: float) -> bool:
        """Wait until `follow`, which must be running, has folded to `position`: reading one's own writes. False: not in time."""
        deadline = self._clock.monotonic() + timeout_sec
        while log_ids.before(self.cluster.position, position):
            try:
                async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                    await self._moved.wait()
            except TimeoutError:
                return False
        return True

    async def moved(self, timeout_sec: float) -> None:
        """Wait for the next batch that `follow` folds, at most `timeout_sec`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_sec):
                await self._moved.wait()

    # --- folding ---

    async def _entries(self, block_ms: int) -> list[Entry]:
        """The next entries, from a log that was compared since it changed last. Raises ServerChanged, LogUnavailable."""
        try:
            if self._doubtful:
                await self._find_common_point()
                self._doubtful = False
            return await self._log.read(self.cluster.position, MAX_BATCH, block_ms)
        except ServerChanged:
            self._doubtful = True
            raise

    def _fold(self, entries: list[Entry], on_batch: OnBatch | None) -> None:
        cluster = self.cluster
        batch = []
        for entry in entries:
            event = decoded(entry)
            evolve(cluster, entry.id, event)
            batch.append(Observed(entry.id, event, entry.payload))
        self._last_payload, self._known_sha256 = entries[-1].payload, ""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        for listener in (*self.listeners, *((on_batch,) if on_batch is not None else ())):
            listener(batch)

    # --- a server that went away, or came back as another ---

    def _troubled(self, reason: str) -> None:
        if not self.trouble:
            structlog.get_logger().warning("the event log cannot be read; trying again", reason=reason)
        self.trouble = reason

    def _recovered(self) -> None:
        if self.trouble:
            structlog.get_logger().info("the event log can be read again", position=self.cluster.position)
        self.trouble = ""

    async def _find_common_point(self) -> None:
        """Go on from the position only if the entry there is still what it was; else fold again from the snapshot or the start."""
        if await self._is_in_log():
            return
        structlog.get_logger().warning("the log is not the one that was folded: folding it again", position=self.cluster.position)
        self.rebuilds += 1
        self.caught_up = False
        self._load_snapshot()
        if not await self._is_in_log():
            self._start_empty()

    async def _is_in_log(self) -> bool:
        await self._log.run_id()  # looking at the new run is what lets reads go on
        if self.cluster.position == log_ids.START:
            return True
        return await has_entry(self._log, self.cluster.position, self._known_sha256 or payload_sha256(self._last_payload))

    def _load_snapshot(self) -> None:
        loaded = self._snapshots.load() if self._snapshots is not None else None
        if loaded is None:
            self._start_empty()
        else:
            self.cluster, self._known_sha256 = loaded
            self._last_payload = b""

    def _start_empty(self) -> None:
        self.cluster, self._known_sha256, self._last_payload = Cluster(), "", b""


def decoded(entry: Entry) -> Event | UnknownEvent:
    """An entry that does not fit its type stops who decides; a reader shows all the others."""
    try:
        return codec.decode(entry.type, entry.payload)
    except CodecError as error:
        structlog.get_logger().warning("an entry of the log cannot be read", id=entry.id, reason=str(error))
        return UnknownEvent(entry.type)
