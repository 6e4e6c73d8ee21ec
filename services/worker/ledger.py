"""What a worker must still know after a kill -9: its name and nonce, its incarnation, its host processes, reports not yet acknowledged.

An append-only file of JSON lines. A host's line is on disk before the host is told to go; a report of hours of work before it is sent.
`LedgerStore` is the file, or memory in the simulation; a torn last line is what a crash leaves and is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import Raw, Struct

from mloc.core.events import HeldAttempt


class LedgerError(Exception):
    """The ledger cannot be used; the message says what to do."""


class Line(Struct, frozen=True, tag=True, tag_field="line", omit_defaults=True):
    """One line of the ledger."""


class Named(Line, frozen=True):
    """Who the worker is. The nonce shows the server that a registrant has this ledger, and so that the holder of its id is dead or itself."""

    worker: str
    nonce: str


class Began(Line, frozen=True):
    incarnation: int


class HostStarted(Line, frozen=True):
    """A host process leads a process group of its own; `started` tells it from a later process with the same pid."""

    pid: int
    started: str


class HostGone(Line, frozen=True):
    pid: int


class ReportKept(Line, frozen=True):
    """A report on its way to the log. `held` is set for an attempt's last one."""

    incarnation: int
    seq: int
    type: str
    event: Raw
    held: HeldAttempt | None = None


class ReportAcknowledged(Line, frozen=True):
    """All reports of `incarnation` up to `seq` are in the log."""

    incarnation: int
    seq: int


AnyLine = Named | Began | HostStarted | HostGone | ReportKept | ReportAcknowledged

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AnyLine).decode


class LedgerStore(Protocol):
    """Where the lines lie. What a call has written is there for the next `load`, whole or, after a crash, cut at any byte of the last call."""

    def load(self) -> bytes: ...

    async def append(self, lines: bytes, *, sync: bool) -> None:
        """With `sync` the lines are on disk when this returns; without, they survive a kill of the worker only. Raises OSError."""

    async def rewrite(self, content: bytes) -> None:
        """Replace everything, atomically. Raises OSError."""

    @property
    def size(self) -> int:
        """Bytes that were appended since the last rewrite."""


COMPACT_BYTES = 4 * 1024 * 1024


class Ledger:
    """The fold of the lines, and the way to write more."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self.worker = ""
        self.nonce = ""
        self.incarnation = 0
        self.hosts: dict[int, HostStarted] = {}
        self.reports: dict[tuple[int, int], ReportKept] = {}
        content = store.load()
        for number, text in enumerate(content.split(b"\n")[:-1], 1):  # what follows the last line end is a torn line
            try:
                self._fold(_decode(text))
            except msgspec.MsgspecError as error:
                raise LedgerError(
                    f"line {number} of the worker's ledger is not readable ({error}): move its folder away to start as a new worker"
                ) from error

    async def name(self, worker: str, nonce: str) -> None:
        await self._write([Named(worker, nonce)], sync=True)

    async def tidy(self) -> None:
        """Rewrite the file as what still matters; at start, so that a torn line never gets a successor."""
        await self._store.rewrite(b"".join(_encode(line) + b"\n" for line in self._live_lines()))

    async def begin(self, incarnation: int) -> None:
        await self._write([Began(incarnation)], sync=True)

    async def host_started(self, host: HostStarted) -> None:
        await self._write([host], sync=True)

    async def host_gone(self, pid: int) -> None:
        if pid in self.hosts:
            await self._write([HostGone(pid)], sync=False)

    async def keep(self, reports: Sequence[ReportKept], *, sync: bool = True) -> None:
        """A crash of this worker loses none of them; with `sync` one of the machine does not either."""
        await self._write(reports, sync=sync)

    async def acknowledge(self, incarnation: int, seq: int) -> None:
        """The log has all reports of this incarnation up to `seq`."""
        if any(of == incarnation and number <= seq for of, number in self.reports):
            await self._write([ReportAcknowledged(incarnation, seq)], sync=False)
            if not self.reports and self._store.size > COMPACT_BYTES:
                await self.tidy()

    async def _write(self, lines: Sequence[AnyLine], *, sync: bool) -> None:
        await self._store.append(b"".join(_encode(line) + b"\n" for line in lines), sync=sync)
        for line in lines:
            self._fold(line)

    def _fold(self, line: AnyLine) -> None:
        match line:
            case Named():
                self.worker, self.nonce = line.worker, line.nonce
            case Began():
                self.incarnation = max(self.incarnation, line.incarnation)
            case HostStarted():
                self.hosts[line.pid] = line
            case HostGone():
                self.hosts.pop(line.pid, None)
            case ReportKept():
                self.reports[line.incarnation, line.seq] = line
            case ReportAcknowledged():
                for key in [key for key in self.reports if key[0] == line.incarnation and key[1] <= line.seq]:
                    del self.reports[key]

    def _live_lines(self) -> list[AnyLine]:
        return [Named(self.worker, self.nonce), Began(self.incarnation), *self.hosts.values(), *self.reports.values()]
