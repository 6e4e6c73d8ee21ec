"""What is moved for an attempt: its inputs before it runs, what it has so far meanwhile, its files at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from mloc.core.host_frames import CheckpointDone, RowsDone, RunTask, Succeeded
from mloc.services.transfers.transfers import Transfers
from mloc.services.worker.attempt import Attempt, AttemptKey
from mloc.services.worker.reports import Reports
from mloc.services.worker.scrubbing import scrub_text
from mloc.services.worker.telemetry import TelemetryBuffer

Moved = TypeVar("Moved")


class AttemptTransfers:
    """Without `transfers` nothing is moved (a simulation)."""

    def __init__(self, transfers: Transfers | None, reports: Reports, telemetry: TelemetryBuffer) -> None:
        self._transfers = transfers
        self._reports = reports
        self._telemetry = telemetry
        self._moving: dict[AttemptKey, asyncio.Future[Any]] = {}

    async def fetch(self, attempt: Attempt, frame: RunTask) -> RunTask:
        """What the spec names elsewhere, brought here; broken off when the attempt is asked to stop. Raises TransferError."""
        if self._transfers is None:
            return frame
        say = self._sayer(attempt)
        attempt.given = await self._until_stopped(attempt, self._transfers.fetch(frame, say))
        if attempt.given is not None:
            attempt.uploads = self._transfers.progress_uploads(attempt.given, say, lambda done: self._put(attempt, done))
        return attempt.given or frame

    def progress(self, attempt: Attempt, done: RowsDone | CheckpointDone) -> None:
        """Told to the log when others can read it: at once, or when it was uploaded."""
        match done:
            case RowsDone() if attempt.uploads is not None:
                attempt.uploads.rows(done)
            case CheckpointDone() if attempt.uploads is not None:
                attempt.uploads.checkpoint(done)
            case _:
                self._put(attempt, done)

    def may_deliver(self, attempt: Attempt, ended: Succeeded) -> bool:
        """Whether a success has files that others may have no way to yet."""
        return ended.files and attempt.given is not None

    async def deliver(self, attempt: Attempt, ended: Succeeded) -> Succeeded | None:
        """Bytes before events: the success that may be told now; None where the attempt was asked to stop before. Raises TransferError."""
        assert self._transfers is not None
        assert attempt.given is not None
        if attempt.uploads is not None:
            await attempt.uploads.end()
        if attempt.stop_reason is not None:
            return None
        return await self._until_stopped(attempt, self._transfers.deliver(attempt.given, ended, self._sayer(attempt)))

    def break_off(self, key: AttemptKey) -> None:
        """The attempt was asked to stop."""
        if (moving := self._moving.get(key)) is not None:
            moving.cancel()

    def release(self, attempt: Attempt) -> None:
        """The attempt is over."""
        if attempt.uploads is not None:
            attempt.uploads.close()
        if self._transfers is not None:
            self._transfers.release(attempt.key)

    def _put(self, attempt: Attempt, done: RowsDone | CheckpointDone) -> None:
        if attempt.stage == "ended":
            return
        if isinstance(done, RowsDone):
            self._reports.rows(attempt, done)
        else:
            self._reports.checkpoint(attempt, done)

    def _sayer(self, attempt: Attempt) -> Callable[[str], None]:
        return lambda line: self._telemetry.line(attempt.key, scrub_text(line, attempt.secrets))

    async def _until_stopped(self, attempt: Attempt, work: Coroutine[Any, Any, Moved]) -> Moved | None:
        """What a transfer gives; None where the attempt was asked to stop before."""
        moving: asyncio.Future[Moved] = asyncio.ensure_future(work)
        self._moving[attempt.key] = moving
        try:
            return await moving
        except asyncio.CancelledError:
            if attempt.stop_reason is None:  # the worker ends
                raise
            return None
        finally:
            del self._moving[attempt.key]
