"""An index of the whole log, some 17 bytes an event: which id is the n-th, of which type, where the failures are; and states to fold on from."""

from __future__ import annotations

import bisect
import tempfile
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import zstandard

from mloc.core import log_ids, moment
from mloc.core.cluster import Cluster, from_bytes
from mloc.core.event_line import FAILURES
from mloc.core.moment import AtOrdinal, Moment
from mloc.services.observer import Observed

MARK_LEAST, MARK_MOST = 2_500, 10_000  # events between two marks: more where the state is large


class Mark(NamedTuple):
    """A state after `ordinal` events, compressed in the marks' file."""

    ordinal: int
    offset: int
    length: int


class Chronicle:
    """Ordinals count from 1; 0 is before the first event."""

    def __init__(self) -> None:
        self._marks_file = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the chronicle)
        self.clear()

    def clear(self) -> None:
        """Begin anew: the log is another one."""
        self._ms, self._seq, self._kinds = array("q"), array("q"), bytearray()
        self._kind_names: list[str] = []
        self._kind_codes: dict[str, int] = {}
        self._failures = array("q")
        self.marks: list[Mark] = []
        self._marks_file.truncate(0)
        self._next_mark = MARK_LEAST

    def __len__(self) -> int:
        return len(self._ms)

    def record(self, batch: Sequence[Observed]) -> None:
        """The next entries, in order."""
        for id, event, _payload in batch:
            milliseconds, _, sequence = id.partition("-")
            self._ms.append(int(milliseconds))
            self._seq.append(int(sequence))
            name = getattr(event, "type", "") or type(event).__name__
            code = self._kind_codes.get(name)
            if code is None:
                code = self._kind_codes[name] = min(len(self._kind_names), 255)
                self._kind_names.append(name)
            self._kinds.append(code)
            if name in FAILURES:
                self._failures.append(len(self._ms))

    def id_of(self, ordinal: int) -> str:
        return f"{self._ms[ordinal - 1]}-{self._seq[ordinal - 1]}" if ordinal else log_ids.START

    def type_of(self, ordinal: int) -> str:
        return self._kind_names[self._kinds[ordinal - 1]]

    def ordinal_of(self, at: Moment) -> int:
        """How many events belong to the moment."""
        if isinstance(at, AtOrdinal):
            return max(0, min(at.count, len(self)))
        return bisect.bisect_right(range(len(self)), log_ids.key(moment.last_id(at)), key=lambda i: (self._ms[i], self._seq[i]))

    def failure_before(self, ordinal: int) -> int | None:
        """The latest failure before this event."""
        at = bisect.bisect_left(self._failures, ordinal)
        return self._failures[at - 1] if at else None

    def failure_after(self, ordinal: int) -> int | None:
        at = bisect.bisect_right(self._failures, ordinal)
        return self._failures[at] if at < len(self._failures) else None

    # --- marks ---

    def wants_mark(self) -> bool:
        return len(self) >= self._next_mark

    def mark_planned(self, tasks: int) -> None:
        """A mark of the present position is being made."""
        self._next_mark = len(self) + min(MARK_MOST, max(MARK_LEAST, tasks // 3))

    def add_mark(self, ordinal: int, compressed: bytes) -> None:
        offset = self._marks_file.seek(0, 2)
        self._marks_file.write(compressed)
        bisect.insort(self.marks, Mark(ordinal, offset, len(compressed)))

    def mark_before(self, ordinal: int) -> Mark | None:
        """The latest mark that is not after this event."""
        at = bisect.bisect_right(self.marks, ordinal, key=lambda mark: mark.ordinal)
        return self.marks[at - 1] if at else None

    def state_at(self, mark: Mark) -> Cluster:
        self._marks_file.seek(mark.offset)
        return from_bytes(zstandard.decompress(self._marks_file.read(mark.length)))


def compressed(cluster: Cluster) -> bytes:
    """A state as a mark keeps it."""
    return zstandard.compress(cluster.to_bytes(), 1)
