"""The state after any number of events: from the nearest kept state, folded on. A few states near the last stop are kept at hand."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from mloc.console.chronicle import Chronicle
from mloc.console.sources import Source
from mloc.core import codec
from mloc.core.cluster import Cluster
from mloc.core.codec import CodecError, UnknownEvent
from mloc.core.fold import evolve
from mloc.services.garbage_collection import loading
from mloc.services.log.event_log import Entry

SLICE = 256  # events folded before others may run
AT_HAND = 24  # states kept in memory; they share the tasks, and cost some 200 bytes each
TASKS_AT_HAND = 800_000  # in all of them
EVENTS_A_TASK = 0.8  # events that are folded in the time in which one task of a mark is decoded
PAGES = 64  # of SLICE entries each


class TimeMachine:
    """Reads what it needs from the source; the chronicle says where. States that it gives out are never folded on."""

    def __init__(self, source: Source, chronicle: Chronicle) -> None:
        self._source = source
        self._chronicle = chronicle
        self._at_hand: OrderedDict[int, Cluster] = OrderedDict()
        self._pages: OrderedDict[int, list[Entry]] = OrderedDict()

    def forget(self) -> None:
        """The log is another one."""
        self._at_hand.clear()
        self._pages.clear()

    async def at(self, ordinal: int) -> Cluster:
        """The state after `ordinal` events. Raises LogUnavailable."""
        if ordinal in self._at_hand:
            return self._at_hand[ordinal]
        with loading():
            start, state = await self._nearest(ordinal)
            for entry in await self._entries_from_page(start, ordinal, state):
                _fold(state, entry)
            self._keep(ordinal, state)
            return state

    async def entries(self, first: int, last: int) -> list[Entry]:
        """The entries number `first` to `last`, both included."""
        found: list[Entry] = []
        for page in range((first - 1) // SLICE, (last - 1) // SLICE + 1):
            entries = await self._page(page)
            found += entries[max(0, first - 1 - page * SLICE) : last - page * SLICE]
        return found

    async def _entries_from_page(self, start: int, ordinal: int, state: Cluster) -> list[Entry]:
        """Fold whole pages up to the one of `ordinal`, keeping the state before it for steps back; gives what is left to fold."""
        while start // SLICE < ordinal // SLICE:
            end = (start // SLICE + 1) * SLICE
            for entry in await self.entries(start + 1, end):
                _fold(state, entry)
            start = end
            if ordinal - start < SLICE:
                self._keep(start, state.copy())
            await asyncio.sleep(0)
        return await self.entries(start + 1, ordinal) if ordinal > start else []

    async def _nearest(self, ordinal: int) -> tuple[int, Cluster]:
        """A state of its own at or before this event: of a mark, or the copy of one at hand where folding on from there costs less."""
        kept = max((at for at in self._at_hand if at <= ordinal), default=-1)
        mark = self._chronicle.mark_before(ordinal)
        if mark is not None and (kept < 0 or mark.ordinal - kept > EVENTS_A_TASK * len(self._at_hand[kept].tasks)):
            return mark.ordinal, await asyncio.to_thread(self._chronicle.state_at, mark)
        if kept < 0:
            return 0, Cluster()
        self._at_hand.move_to_end(kept)
        return kept, self._at_hand[kept].copy()

    def _keep(self, ordinal: int, state: Cluster) -> None:
        self._at_hand[ordinal] = state
        self._at_hand.move_to_end(ordinal)
        most = max(3, min(AT_HAND, TASKS_AT_HAND // (len(state.tasks) + 1)))
        while len(self._at_hand) > most:
            self._at_hand.popitem(last=False)

    async def _page(self, page: int) -> list[Entry]:
        entries = self._pages.get(page)
        if entries is None:
            entries = await self._source.read_page(self._chronicle.id_of(page * SLICE), SLICE)
            if len(entries) == SLICE:  # a page that still grows is read again
                self._pages[page] = entries
                while len(self._pages) > PAGES:
                    self._pages.popitem(last=False)
        else:
            self._pages.move_to_end(page)
        return entries


def _fold(state: Cluster, entry: Entry) -> None:
    evolve(state, entry.id, event_of(entry))


def event_of(entry: Entry) -> codec.Event | UnknownEvent:
    """The event; UnknownEvent also where it does not fit its type, as every reader takes it."""
    try:
        return codec.decode(entry.type, entry.payload)
    except CodecError:
        return UnknownEvent(entry.type)
