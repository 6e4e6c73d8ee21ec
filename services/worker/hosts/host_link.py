"""What the worker asks of the operating system: start a host process, speak with it, kill it, kill those of an earlier life.

`host_process` does it with real processes; the simulation has a launcher of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

from mloc.core.host_frames import WorkerFrame
from mloc.services.worker.ledger import HostStarted


class HostPlan(Struct, frozen=True):
    """How a host is started. A light host runs light tasks in batches; any other has one task at a time, or several
    with one engine."""

    light: bool
    devices: tuple[int, ...] = ()
    threads: int = 1


class HostExit(Struct, frozen=True):
    """How a host ended: its exit code, or the number of the signal that killed it."""

    code: int = 0
    signal: int = 0


class HostWatch(Protocol):
    """What a link tells its owner, in the order in which it happened, never from another thread; nothing comes after `ended`."""

    def frames(self, frames: list[Any]) -> None: ...
    def line(self, text: str) -> None: ...
    def ended(self, exit: HostExit) -> None: ...


class HostLink(Protocol):
    """One host process."""

    @property
    def record(self) -> HostStarted: ...
    @property
    def unsent_bytes(self) -> int: ...

    def send(self, frames: Sequence[WorkerFrame]) -> None:
        """Queue frames; never blocks. Frames for a host that has ended are dropped. Raises FrameError for one that is too large."""

    def kill(self) -> None:
        """Kill the host's whole process group; `ended` follows."""


class HostLauncher(Protocol):
    async def launch(self, plan: HostPlan, watch: HostWatch) -> HostLink:
        """Start a host, which touches no device before it is told Go. Raises OSError."""

    async def kill_orphans(self, hosts: Sequence[HostStarted]) -> None:
        """Kill the process groups of an earlier life of this worker and return when they are gone."""
