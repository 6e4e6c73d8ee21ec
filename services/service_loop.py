"""The loop that every deciding service runs: fold in log order, decide from a prefix, commit atomically.

    start:  state = newest good snapshot, or empty; fold to the tail; take the lease (epoch + 1, commit number, barrier = last id)
    loop:   read from the position; fold every entry in log order, one's own answers like anyone's events
            if the last commit has not come back yet: read on                                   # echo barrier
            answers = decide(state, now); commit(epoch, commit number, position, answers)

After a crash at any point: the same again. Nothing to remember and nothing to undo.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from mloc.core import codec, log_ids
from mloc.core.cluster import Cluster
from mloc.core.decisions import delivery
from mloc.core.events import Event
from mloc.core.fold import evolve
from mloc.services.clock import Clock
from mloc.services.log.event_log import (
    MAX_BATCH,
    AlreadyCommitted,
    Backlog,
    Entry,
    EventLog,
    Fenced,
    Lease,
    LeaseHeld,
    LogError,
    LogUnavailable,
    ServerChanged,
)
from mloc.services.log.same_entry import has_entry, payload_sha256

RENEW_SEC = 0.5
GAP_SEC = 1.0  # a loop that stood still longer than this trusts no liveness from before
CURSOR_SEC = 0.2  # the cursor that others see may stay behind for so long; an answer moves it at once
IDLE_BLOCK_MS = 1000
RETRY_SEC = 0.25


class UpgradeNeeded(LogError):
    """The log holds events of a newer program; deciding without them would be wrong."""


class Decider(Protocol):
    """What one service adds to the loop. The loop calls `decide` only when everything that it wrote was read back."""

    name: str

    def decide(self, cluster: Cluster, now_ms: int) -> list[Event]: ...

    def started(self, cluster: Cluster, now_ms: int) -> None:
        """A new lease, or a gap: liveness clocks start anew."""

    def folded(self, cluster: Cluster, entry: Entry, event: Event | codec.UnknownEvent) -> None:
        """Called after each entry was folded."""

    async def before_deciding(self, log: EventLog, now_ms: int) -> None:
        """Side streams are read here (heartbeats)."""

    def block_ms(self, cluster: Cluster, now_ms: int) -> int:
        """How long the next read may wait."""


class SnapshotKeeper(Protocol):
    """Where states are kept between runs; a cache, never the truth."""

    def load(self) -> tuple[Cluster, str] | None:
        """The newest good state and the sha256 of the payload of its last entry."""

    def offer(self, cluster: Cluster, payload_sha256: str, *, now: float, folded: int = 0, final: bool = False) -> None:
        """Write a snapshot if it is time for one. `folded` counts the entries that this process folded."""


class ServiceLoop:
    """One service process: `run` returns when `stop` is set, and raises UpgradeNeeded where it must not decide."""

    def __init__(
        self, log: EventLog, clock: Clock, decider: Decider, holder: str, *, stop: asyncio.Event, snapshots: SnapshotKeeper | None = None
    ) -> None:
        self._log = log
        self._clock = clock
        self._decider = decider
        self._holder = holder
        self._stop = stop
        self._snapshots = snapshots
        self._say = structlog.get_logger().bind(service=decider.name)
        self.wake = asyncio.Event()  # set by the end of an effect, of a read, and by a stop
        self.cluster = Cluster()
        self._last_payload = b""  # of the entry at the position
        self._known_sha256 = ""  # the same, where the position came from a snapshot
        self._folded = 0  # entries, in this process
        self._lease: Lease | None = None
        self._commit_no = 0
        self._barrier = log_ids.START
        self._server_ms = 0
        self._server_at = 0.0
        self._fenced = False
        self._read: asyncio.Task[list[Entry]] | None = None

    async def run(self) -> None:
        stopping = asyncio.ensure_future(self._stop.wait())
        stopping.add_done_callback(self._set_wake)
        try:
            await self._run()
        finally:
            stopping.cancel()

    async def _run(self) -> None:
        self._load_snapshot()
        step = self._find_common_point  # a snapshot may be of another log
        while not self._stop.is_set():
            try:
                await step()
                step = self._lead
            except Fenced as error:
                self._say.warning("another leader took over; standing by", reason=str(error))
            except LeaseHeld:
                step = self._fold_while_standing_by
            except ServerChanged as error:
                self._say.warning("the server or its log changed; comparing", reason=str(error))
                step = self._find_common_point
            except LogUnavailable as error:
                self._say.warning("the event log cannot be reached; trying again", reason=str(error))
                await self._clock.sleep(RETRY_SEC)
        self._drop_read()
        if self._lease is not None and not self._fenced:
            try:
                await self._log.release(self._decider.name, self._lease.epoch)
            except LogError as error:
                self._say.info("the lease was not given back; it expires by itself", reason=str(error))
        if self._snapshots is not None:
            self._snapshots.offer(self.cluster, self._payload_sha256(), now=self._clock.monotonic(), folded=self._folded, final=True)

    def now_ms(self) -> int:
        """The server's clock, as far as this process knows it; never before the last event."""
        passed = int((self._clock.monotonic() - self._server_at) * 1000)
        return max(self._server_ms + passed, log_ids.time_ms(self.cluster.position))

    # --- leading ---

    async def _lead(self) -> None:
        self._drop_read()  # one that was left standing began before what is folded now
        await self._fold_to_tail()
        lease = await self._log.lease(self._decider.name, self._holder)
        self._lease, self._commit_no, self._barrier, self._fenced = lease, lease.commit_no, lease.last_id, False
        self._set_now(lease.now_ms)
        self._decider.started(self.cluster, self.now_ms())
        self._say.info("leading", epoch=lease.epoch, position=self.cluster.position)
        renewing = asyncio.create_task(self._renew(lease.epoch))
        try:
            await self._decide_forever(lease)
        finally:
            renewing.cancel()
            self._drop_read()

    async def _decide_forever(self, lease: Lease) -> None:
        turned = self._clock.monotonic()
        committed, moved = self.cluster.position, turned
        while not self._stop.is_set():
            behind = log_ids.before(self.cluster.position, self._barrier)
            block = 0 if behind else self._decider.block_ms(self.cluster, self.now_ms())
            self._fold(await self._next_entries(block))
            if self._fenced:
                raise Fenced("the lease was taken by another")
            now = self._clock.monotonic()
            if now - turned > GAP_SEC + block / 1000:
                self._decider.started(self.cluster, self.now_ms())
            turned = now
            if log_ids.before(self.cluster.position, self._barrier):
                continue
            await self._decider.before_deciding(self._log, self.now_ms())
            events = self._decider.decide(self.cluster, self.now_ms())
            if events or (self.cluster.position != committed and now - moved > CURSOR_SEC):
                await self._commit(lease.epoch, events)
                committed, moved = self.cluster.position, now
            if self._snapshots is not None:
                self._snapshots.offer(self.cluster, self._payload_sha256(), now=now, folded=self._folded)

    async def _commit(self, epoch: int, events: list[Event]) -> None:
        answers = [delivery.answer(self.cluster, event) for event in events]
        backlog = Backlog(self.cluster.open_count(), self.cluster.submissions)
        try:
            last = await self._log.commit(self._decider.name, epoch, self._commit_no, self.cluster.position, answers, backlog=backlog)
            self._commit_no += 1
            self._barrier = last or self._barrier
        except AlreadyCommitted as error:  # the reply of an earlier try was lost
            self._commit_no, self._barrier = error.commit_no, error.last_id

    async def _renew(self, epoch: int) -> None:
        while True:
            await self._clock.sleep(RENEW_SEC)
            try:
                self._set_now(await self._log.renew(self._decider.name, epoch))
            except Fenced:
                self._fenced = True
                self.wake.set()
                return
            except LogError as error:
                self._say.debug("the lease was not renewed", reason=str(error))

    def _set_now(self, server_ms: int) -> None:
        known = self._server_ms + int((self._clock.monotonic() - self._server_at) * 1000) if self._server_at else 0
        self._server_ms, self._server_at = max(server_ms, known), self._clock.monotonic()

    async def _next_entries(self, block_ms: int) -> list[Entry]:
        """The next entries; a wake-up (the end of an effect, a stop) ends the wait without them."""
        if self._read is None:
            self._read = asyncio.ensure_future(self._log.read(self.cluster.position, MAX_BATCH, block_ms))
            if block_ms:
                self._read.add_done_callback(self._set_wake)
        if block_ms and not self._read.done():
            await self.wake.wait()
            self.wake.clear()
            if not self._read.done():
                return []
        read, self._read = self._read, None
        return await read

    def _set_wake(self, _: object) -> None:
        self.wake.set()

    def _drop_read(self) -> None:
        if self._read is not None:
            self._read.cancel()
            self._read = None

    # --- folding ---

    async def _fold_to_tail(self) -> None:
        while not self._stop.is_set():
            entries = await self._log.read(self.cluster.position, MAX_BATCH)
            if not entries:
                return
            self._fold(entries)

    async def _fold_while_standing_by(self) -> None:
        self._fold(await self._next_entries(int(RENEW_SEC * 1000)))

    def _fold(self, entries: list[Entry]) -> None:
        cluster, decider = self.cluster, self._decider
        assert not entries or log_ids.before(cluster.position, entries[0].id), "an entry would be folded twice"
        for entry in entries:
            event = codec.decode(entry.type, entry.payload)
            if isinstance(event, codec.UnknownEvent):
                raise UpgradeNeeded(f"the log holds an event of type {event.type} (entry {entry.id}), which this program does not know: upgrade MLOC")
            evolve(cluster, entry.id, event)
            decider.folded(cluster, entry, event)
        if entries:
            self._folded += len(entries)
            self._last_payload, self._known_sha256 = entries[-1].payload, ""

    def _payload_sha256(self) -> str:
        return self._known_sha256 or payload_sha256(self._last_payload)

    # --- a server that came back ---

    def _load_snapshot(self) -> None:
        loaded = self._snapshots.load() if self._snapshots is not None else None
        self.cluster, self._known_sha256 = loaded if loaded is not None else (Cluster(), "")
        self._last_payload = b""

    async def _find_common_point(self) -> None:
        """The log may have lost its tail: go on from here only if the last folded entry is still what it was."""
        self._drop_read()
        await self._log.run_id()  # looking at the new run is what lets the log's other calls go on
        if await self._is_in_log():
            return
        self._say.error("the log lost its tail: folding it again", position=self.cluster.position)
        self._load_snapshot()
        if not await self._is_in_log():
            self.cluster, self._last_payload, self._known_sha256 = Cluster(), b"", ""

    async def _is_in_log(self) -> bool:
        if self.cluster.position == log_ids.START:
            return True
        return await has_entry(self._log, self.cluster.position, self._payload_sha256())
