"""Follows the source for as long as the console runs: the live state, the chronicle, and who wants to see new events."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from typing import cast

from mloc.console.chronicle import Chronicle, compressed
from mloc.console.sources import Source
from mloc.core.cluster import Cluster
from mloc.services.garbage_collection import collect_seldom
from mloc.services.log.event_log import EventLog, Heartbeat, LogError
from mloc.services.observer import Observed, Observer

HEARTBEATS_EVERY_SEC = 1.0


class Follower:
    """`cluster` is the live state: read it between two awaits, never keep it. `version` changes with it."""

    def __init__(self, source: Source, chronicle: Chronicle) -> None:
        self._source = source
        self._chronicle = chronicle
        self._observer = Observer(cast(EventLog, source))  # an observer only reads
        self._rebuilds = 0
        self._marking: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[Sequence[Observed]], None]] = []
        self.heartbeats: dict[str, Heartbeat] = {}
        self.version = 0
        self.on_other_log: Callable[[], None] = lambda: None
        self._rate_from = (time.monotonic(), 0)
        self.events_per_sec = 0.0

    @property
    def cluster(self) -> Cluster:
        return self._observer.cluster

    @property
    def caught_up(self) -> bool:
        return self._observer.caught_up

    @property
    def trouble(self) -> str:
        """Why the log cannot be read now; "" while it can."""
        return self._observer.trouble

    def listen(self, listener: Callable[[Sequence[Observed]], None]) -> Callable[[], None]:
        """Every batch of events from now on; gives a function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def run(self) -> None:
        """Until it is cancelled. Never ends for what the server does."""
        collect_seldom()
        gc.disable()  # until the log is read: it makes many lasting values
        beating = asyncio.create_task(self._read_heartbeats())
        thawing = asyncio.create_task(self._collect_once_caught_up())
        try:
            await self._observer.follow(self._on_batch)
        finally:
            gc.enable()
            beating.cancel()
            thawing.cancel()

    def _on_batch(self, batch: Sequence[Observed]) -> None:
        if self._observer.rebuilds != self._rebuilds:
            self._rebuilds = self._observer.rebuilds
            self._chronicle.clear()
            self.on_other_log()
        self._chronicle.record(batch)
        self.version += 1
        if self._chronicle.wants_mark():
            self._mark()
        for listener in tuple(self._listeners):
            listener(batch)
        self._measure()

    def _mark(self) -> None:
        state, ordinal, rebuilds = self.cluster.copy(), len(self._chronicle), self._rebuilds
        self._chronicle.mark_planned(len(state.tasks))

        async def write() -> None:
            packed = await asyncio.to_thread(compressed, state)
            if rebuilds == self._rebuilds:
                self._chronicle.add_mark(ordinal, packed)

        marking = asyncio.create_task(write())
        self._marking.add(marking)
        marking.add_done_callback(self._marking.discard)

    def _measure(self) -> None:
        at, count = self._rate_from
        now = time.monotonic()
        if not self.caught_up:  # how fast the past is read is not how fast events come
            self._rate_from = (now, len(self._chronicle))
        elif now - at >= 1.0:
            self.events_per_sec = (len(self._chronicle) - count) / (now - at)
            self._rate_from = (now, len(self._chronicle))

    def rate(self) -> float:
        """Events/s of about the last second; 0 when none come any more."""
        return self.events_per_sec if time.monotonic() - self._rate_from[0] < 2.5 else 0.0

    async def _collect_once_caught_up(self) -> None:
        while not self.caught_up:
            await asyncio.sleep(0.05)
        gc.freeze()
        gc.enable()

    async def _read_heartbeats(self) -> None:
        after = "0-0"
        while True:
            try:
                for id, beat in await self._source.read_heartbeats(after):
                    after = id
                    self.heartbeats[beat.worker] = beat
                    self.version += 1
            except LogError:
                pass  # `trouble` tells it
            await asyncio.sleep(HEARTBEATS_EVERY_SEC)
