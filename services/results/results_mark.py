"""The proof that a worker and the aggregator see the same RESULTS_DIR: a file in it whose name only the aggregator made up.

The aggregator keeps `.mloc-shared-<nonce>` there and the nonce in the event log, and shows both again every so often: a folder may be
cleared, a server may forget. A worker that finds the file shares the folder, under whichever path.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from pathlib import Path

import structlog

from mloc.services.clock import Clock
from mloc.services.log.event_log import EventLog, LogError

PREFIX = ".mloc-shared-"
SHOWN_EACH_SEC = 10.0
OLD_SEC = 3600.0  # files of aggregators before this one; a standby's is younger
BELIEVED_SEC = 10.0
LOOKS, LOOK_AGAIN_SEC = 4, 0.25
SHOWS_LATE_SEC = 90.0  # an aggregator that just started shows a new name, and NFS may take so long to show that elsewhere

_log = structlog.get_logger("results")


class MarkKeeper:
    """The aggregator's side."""

    def __init__(self, folder: Path, log: EventLog, clock: Clock) -> None:
        self._folder = folder
        self._log = log
        self._clock = clock
        self._nonce = secrets.token_hex(12)

    async def run(self) -> None:
        """Show it until cancelled. The file is there before the log tells of it."""
        while True:
            try:
                self._show_file()
                await self._log.set_results_mark(self._nonce, str(self._folder.resolve()))
            except (OSError, LogError) as error:
                _log.warning("workers cannot see yet whether they share the results folder", folder=str(self._folder), reason=str(error))
            await self._clock.sleep(SHOWN_EACH_SEC)

    def _show_file(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        mark = self._folder / (PREFIX + self._nonce)
        mark.touch()
        for other in self._folder.glob(PREFIX + "*"):
            with contextlib.suppress(FileNotFoundError):
                if other != mark and other.stat().st_mtime < time.time() - OLD_SEC:
                    other.unlink()


class SharedFolder:
    """The worker's side; what it saw is believed for a while."""

    def __init__(self, folder: Path, log: EventLog, clock: Clock) -> None:
        self._folder = folder
        self._log = log
        self._clock = clock
        self.there = ""  # the aggregator's path of its folder, once it proved to be another one
        self._seen: tuple[float, bool] | None = None
        self._shared_at: float | None = None  # when the mark was last there
        self._lock = asyncio.Lock()

    async def is_shared(self) -> bool:
        """Where there never was an aggregator, nobody says otherwise. Raises LogError."""
        async with self._lock:
            if self._seen is None or self._clock.monotonic() - self._seen[0] > BELIEVED_SEC:
                is_there = await self._look()
                now = self._clock.monotonic()
                if is_there:
                    self._shared_at = now
                was_just_there = self._shared_at is not None and now - self._shared_at < SHOWS_LATE_SEC
                self._seen = (now, is_there or was_just_there)
            return self._seen[1]

    async def _look(self) -> bool:
        for look in range(LOOKS):
            nonce = await self._log.results_mark()
            if not nonce or (self._folder / (PREFIX + nonce)).is_file():
                return True
            if look < LOOKS - 1:
                await self._clock.sleep(LOOK_AGAIN_SEC)
        self.there = await self._log.results_folder()
        return False
