"""The server of the event log in memory, for the simulation and for tests.

It survives its clients. `restart` ends its run, on request without the newest writes, as a server does that lost its tail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mloc.services.log.event_log import Entry, LogError, LogUnavailable
from mloc.services.log.memory_records import Protection, Writer
from mloc.services.log.memory_state import MemoryState

Audit = Callable[[Entry, Writer], None]


class Step(NamedTuple):
    """One write in the journal: what is lost with a tail is lost as whole steps."""

    now: int
    script: str
    arguments: tuple[Any, ...]
    entries: int  # of the control log, after it


class MemoryServer:
    """`now_ms` is the server's clock. `audit` sees each entry as it is appended. `without` takes protections out, for mutants."""

    def __init__(
        self, now_ms: Callable[[], int], *, log_id: str = "memory", audit: Audit | None = None, without: frozenset[Protection] = frozenset()
    ) -> None:
        self.now_ms = now_ms
        self.audit = audit
        self.up = True
        self.run = 1
        self._log_id = log_id
        self._without = without
        self.state = MemoryState(log_id, without)
        self._journal: list[Step] = []
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    @property
    def run_id(self) -> str:
        return f"run-{self.run}"

    def write(self, script: str, *arguments: Any, wakes: Sequence[str] = ()) -> Any:
        """Run one script of the state, atomically; wake readers of the streams that it may have written."""
        now = self.now_ms()
        result = getattr(self.state, script)(now, *arguments)
        appended, self.state.appended = self.state.appended, []
        self._journal.append(Step(now, script, arguments, len(self.state.entries)))
        if self.audit is not None:
            for entry, writer in appended:
                self.audit(entry, writer)
        for stream in (*wakes, "events") if appended else wakes:
            self._wake(stream, None)
        return result

    async def wait_for(self, stream: str, seconds: float) -> None:
        """Until the stream is written, at most `seconds` of the running loop's clock. Raises LogUnavailable when the server stops."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(stream, []).append(woken)
        try:
            await asyncio.wait_for(woken, seconds)
        except TimeoutError:
            pass
        finally:
            if woken in (waiting := self._waiting.get(stream, [])):
                waiting.remove(woken)

    def stop(self) -> None:
        """Nobody is answered until `restart`."""
        self.up = False
        for stream in list(self._waiting):
            self._wake(stream, LogUnavailable("the server stopped"))

    def restart(self, lose_tail: int = 0) -> None:
        """A new run of the server; `lose_tail` entries of the control log are gone, or a few more: every write is lost whole, the newest first,
        together with what it did to inboxes, leases and workers."""
        self.stop()
        if lose_tail:
            kept = max(0, len(self.state.entries) - lose_tail)
            journal = self._journal
            while journal and journal[-1].entries > kept:
                journal.pop()
            self.state = MemoryState(self._log_id, self._without)
            for step in journal:
                getattr(self.state, step.script)(step.now, *step.arguments)
            self.state.appended = []
        self.run += 1
        self.up = True

    def _wake(self, stream: str, error: LogError | None) -> None:
        for woken in self._waiting.pop(stream, []):
            if woken.done():
                continue
            if error is None:
                woken.set_result(None)
            else:
                woken.set_exception(error)
