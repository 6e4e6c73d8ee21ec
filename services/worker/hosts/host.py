"""One host process as the worker keeps it: what it was given, which engines it has warm, what it printed last."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from mloc.core.host_frames import EngineLoaded, Go, WorkerFrame
from mloc.services.worker.attempt import Attempt, AttemptKey
from mloc.services.worker.hosts.host_link import HostExit, HostLink, HostPlan

TAIL_LINES = 20  # of a host's output, kept to explain its death


class HostOwner(Protocol):
    """Whom a host tells what its process says."""

    def frames_of(self, host: Host, frames: list[Any]) -> None: ...
    def line_of(self, host: Host, text: str) -> None: ...
    def ended(self, host: Host, exit: HostExit) -> None: ...


class Host:
    """One host process from before its start to its end.

    `attempts` are those that it was given, in the order in which it runs them. `reserved` counts attempts that hold it; with `shares`, the key
    of an engine that takes several, more of that engine may come.
    """

    def __init__(self, plan: HostPlan, family: str, owner: HostOwner) -> None:
        self.plan = plan
        self.family = family
        self.attempts: dict[AttemptKey, Attempt] = {}
        self.engines: dict[str, EngineLoaded] = {}  # warm ones
        self.asleep: dict[str, EngineLoaded] = {}
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.reserved = 0
        self.shares = ""
        self.ready = False
        self.killed = False
        self.last_used = 0.0
        self.started = asyncio.Event()  # or it was tried in vain: then it is gone
        self.gone = asyncio.Event()
        self._owner = owner
        self._link: HostLink | None = None
        self._before_go: list[WorkerFrame] = []

    @property
    def idle(self) -> bool:
        return not self.reserved and not self.attempts and not self.killed

    @property
    def must_go(self) -> bool:
        """Whether it has attempts, and all of them were asked to stop longer ago than they were given for that."""
        return bool(self.attempts) and all(attempt.overdue for attempt in self.attempts.values())

    def takes(self, engine: str, *, alone: bool = False) -> bool:
        """Whether one more attempt with that shared engine may join. None joins where one does not stop: it waits for the host's end.

        One that has its devices to itself (`alone`) joins none that was asked to, because there is no place for another engine meanwhile."""
        leaving = any(one.overdue or (alone and one.stop_reason is not None) for one in self.attempts.values())
        return bool(self.reserved) and self.shares == engine and not self.killed and not leaving

    @property
    def pid(self) -> int:
        return self._link.record.pid if self._link else 0

    @property
    def unsent_bytes(self) -> int:
        return self._link.unsent_bytes if self._link else 0

    def send(self, frames: Sequence[WorkerFrame]) -> None:
        """Before the host was told to go, frames wait here."""
        if self._link is None:
            self._before_go += frames
        else:
            self._link.send(frames)

    def go(self, link: HostLink) -> None:
        """Its line is in the ledger."""
        self._link = link
        link.send([Go(), *self._before_go])
        self._before_go.clear()

    def kill(self) -> None:
        self.killed = True
        if self._link is not None:
            self._link.kill()

    # --- what its link tells ---

    def frames(self, frames: list[Any]) -> None:
        self._owner.frames_of(self, frames)

    def line(self, text: str) -> None:
        self.tail.append(text)
        self._owner.line_of(self, text)

    def ended(self, exit: HostExit) -> None:
        self._owner.ended(self, exit)
