"""The newest entries of the log, shared by all who follow it: one fold reads them, and every follower finds its next ones by its position.

    tail = EventTail(log, observer)
    entries = tail.after(position)      # what came after it; None: no longer in memory, so
    entries = await tail.page(position) # … from the log itself
    await tail.moved(15.0)

A follower is a position, never a queue: a slow one falls out of the memory of the tail and reads the log, and costs nothing while it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from operator import attrgetter

import msgspec

from mloc.core import codec, log_ids
from mloc.core.codec import UnknownEvent
from mloc.core.event_line import task_of, worker_of
from mloc.services.intake.task_history import event_view
from mloc.services.log.event_log import Entry, EventLog, LogError
from mloc.services.observer import Observed, Observer

KEPT_ENTRIES = 4096
KEPT_BYTES = 8 * 1024 * 1024
PACE_SEC = 0.01  # followers are woken once for all that came in this time
PAGES_AT_ONCE = 8  # of followers that are behind
TROUBLE_SEC = 0.25
LAST_SEQUENCE = 2**63 - 1


class Gap(Exception):
    """Entries after a position are gone: trimmed, or lost with the server's tail. `first` is the oldest entry that is there."""

    def __init__(self, code: str, message: str, first: str) -> None:
        super().__init__(message)
        self.code = code
        self.first = first


class Followed(msgspec.Struct, gc=False):
    """One entry with what filters look at. `json` is made once for all followers."""

    id: str
    key: tuple[int, int]
    type: str
    task: str
    worker: str
    payload: bytes
    shown: bytes = b""

    @property
    def json(self) -> bytes:
        """The event as `…/{id}/events` shows it."""
        if not self.shown:
            self.shown = msgspec.json.encode(event_view(Entry(self.id, self.type, self.payload)))
        return self.shown


class _Named(msgspec.Struct, gc=False):
    task: str = ""
    worker: str = ""


_decode_named = msgspec.json.Decoder(_Named).decode
_key_of = attrgetter("key")


class EventTail:
    """`observer.follow` runs beside it. `followers` counts who is there: without any, nothing is kept."""

    def __init__(self, log: EventLog, observer: Observer) -> None:
        self._log = log
        self._observer = observer
        self._kept: list[Followed] = []
        self._bytes = 0
        self._rebuilds = observer.rebuilds
        self._floor = self._head = log_ids.key(observer.cluster.position)  # the entries kept are those after the floor
        self._moved = asyncio.Event()
        self._waking: asyncio.TimerHandle | None = None
        self._pages = asyncio.Semaphore(PAGES_AT_ONCE)
        self.followers = 0
        self.closed = False
        observer.listeners.append(self._took)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        self.followers += 1
        try:
            yield
        finally:
            self.followers -= 1

    @property
    def rebuilds(self) -> int:
        """Grows when the log was found to be another one than was folded: positions must be looked up again."""
        return self._observer.rebuilds

    def after(self, position: str) -> list[Followed] | None:
        """What is kept after the position, in order; None where the log must be read."""
        key = log_ids.key(position)
        if key >= self._head:
            return []
        if key < self._floor:
            return None
        return self._kept[bisect_right(self._kept, key, key=_key_of) :]

    async def page(self, position: str, *, exact: bool) -> list[Followed] | None:
        """The next entries from the log, nothing left out; None while it cannot be read. Raises Gap."""
        rebuilds = self.rebuilds
        if not self._observer.is_settled:
            return None
        try:
            async with self._pages:
                entries = await self._log.read(position)
                await self.check(position, exact=exact)  # after the read: what is there now was there then
        except LogError:  # the observer says what the trouble is, and when it is over
            return None
        if not self._observer.is_settled or self.rebuilds != rebuilds:
            return None
        return [_followed(entry) for entry in entries]

    async def check(self, position: str, *, exact: bool) -> None:
        """Raises Gap where a follower cannot go on after `position` (`exact`: it is that of an entry), LogUnavailable.

        Trimming goes from the front: while the log has the entry, or begins before the position, nothing after it is missing."""
        if position != log_ids.START and await self._log.entry(position) is not None:
            return
        first, last = await self._log.ends()
        if log_ids.before(last, position):
            raise Gap("position_unknown", f"the log ends at {last}, before {position}", first)
        if log_ids.before(position, just_before(first)):
            oldest = await self._log.entry(first)
            if oldest is None or oldest.type != "LogStarted":
                raise Gap("position_trimmed", f"what came after {position} is not in the log any more; it begins at {first}", first)
        if exact and position != log_ids.START:
            raise Gap("position_unknown", f"the log has no entry {position}", first)

    async def start(self) -> str:
        """The position before the oldest entry that the log still has. Raises LogUnavailable."""
        first, _ = await self._log.ends()
        oldest = await self._log.entry(first) if first != log_ids.START else None
        return log_ids.START if oldest is None or oldest.type == "LogStarted" else just_before(first)

    async def end(self) -> str:
        """The position behind all that is in the log now. Raises LogUnavailable."""
        return (await self._log.ends())[1]

    async def moved(self, timeout_sec: float) -> bool:
        """Wait for the next entries, for `close`, or for the time-out, which gives False."""
        if self.closed:
            return True
        try:
            async with asyncio.timeout(timeout_sec):
                await self._moved.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """All followers end."""
        self.closed = True
        self._wake()

    # --- private ---

    def _took(self, batch: Sequence[Observed]) -> None:
        last = log_ids.key(batch[-1].id)
        if not self.followers or self._rebuilds != self._observer.rebuilds:  # nobody is there, or the log is folded anew
            self._kept.clear()
            self._bytes, self._floor, self._rebuilds = 0, last, self._observer.rebuilds
        else:
            for id, event, payload in batch:
                type_ = event.type if isinstance(event, UnknownEvent) else codec.type_of(event)
                self._kept.append(Followed(id, log_ids.key(id), type_, task_of(event), worker_of(event), payload))
                self._bytes += len(payload)
            if self._bytes > KEPT_BYTES or len(self._kept) > KEPT_ENTRIES:
                self._drop_older_half()
        self._head = last
        if self.followers and self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(PACE_SEC, self._wake)

    def _drop_older_half(self) -> None:
        """Seldom and much at a time: a list loses its front slowly."""
        while self._kept and (self._bytes > KEPT_BYTES // 2 or len(self._kept) > KEPT_ENTRIES // 2):
            some = self._kept[: max(1, len(self._kept) // 4)]
            del self._kept[: len(some)]
            self._floor = some[-1].key
            self._bytes -= sum(len(one.payload) for one in some)

    def _wake(self) -> None:
        self._waking = None
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


def just_before(id: str) -> str:
    """The last position before an entry."""
    ms, sequence = log_ids.key(id)
    if sequence:
        return f"{ms}-{sequence - 1}"
    return f"{ms - 1}-{LAST_SEQUENCE}" if ms else log_ids.START


def _followed(entry: Entry) -> Followed:
    try:
        named = _decode_named(entry.payload)
    except msgspec.MsgspecError:
        named = _Named()
    return Followed(entry.id, log_ids.key(entry.id), entry.type, named.task, named.worker, entry.payload)
