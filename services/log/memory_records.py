"""The records of the event log in memory: inboxes, workers, leaders, side streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mloc.core import log_ids
from mloc.services.log.event_log import InboxEntry

Protection = Literal["epoch", "commit number", "check in start", "lost answer"]  # what a mutant of the log can be made without
Id = tuple[int, int]
Encoded = tuple[str, bytes]  # an event's type and payload


class Writer(NamedTuple):
    """Who appends an entry: the script, and what it was told."""

    script: str
    service: str = ""
    epoch: int = 0
    leading_epoch: int = 0  # the epoch that holds the lease at this moment
    worker: str = ""
    incarnation: int = 0


class EncodedAnswer(NamedTuple):
    kind: str  # append, deliver, recall, revoke
    type: str
    payload: bytes
    worker: str = ""
    incarnation: int = 0
    extra: bytes = b""
    recall: str = ""


@dataclass
class Inbox:
    entries: dict[str, InboxEntry] = field(default_factory=dict)
    delivered: str = log_ids.START  # the newest entry that was delivered
    pending: dict[str, None] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)

    def remove(self, ids: Sequence[str]) -> None:
        for id in ids:
            self.entries.pop(id, None)
            self.pending.pop(id, None)
            self.started.discard(id)


@dataclass
class WorkerRecord:
    incarnation: int = 0
    nonce: str = ""
    revoked: bool = False
    alive_until: int = 0
    registered: str = ""
    seen: dict[int, int] = field(default_factory=dict)  # incarnation → newest report number


@dataclass
class Leader:
    epoch: int = 0
    commit_no: int = 0
    holder: str = ""
    expires: int = 0


@dataclass
class Remembered:
    """A submission under an idempotency key."""

    body_sha256: str
    tasks: tuple[str, ...]
    last_id: str
    expires: int


class Stream:
    """A side stream of (id, payload), ids by time."""

    def __init__(self, kept: int | None = None) -> None:
        self.rows: deque[tuple[str, bytes]] = deque(maxlen=kept)
        self._last: Id = (0, 0)

    def append(self, now_ms: int, payload: bytes) -> None:
        self._last = next_id(self._last, now_ms)
        self.rows.append((written(self._last), payload))

    def after(self, id: str, count: int) -> list[tuple[str, bytes]]:
        start = log_ids.key(id)
        found = [row for row in self.rows if log_ids.key(row[0]) > start]
        return found[:count]


def next_id(last: Id, now_ms: int) -> Id:
    """Ids never go back, also where the clock does."""
    return (now_ms, 0) if now_ms > last[0] else (last[0], last[1] + 1)


def written(id: Id) -> str:
    return f"{id[0]}-{id[1]}"
