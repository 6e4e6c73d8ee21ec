"""Files of an attempt to and from the API, for workers that do not see its results folder: what is there is durable before this returns.

An API that cannot be reached is waited for, however long: an attempt's own time-out or stop bounds that, and hours of training are not
thrown away for a restart of a service. One that refuses this worker's token is asked again for a while: tokens are changed in one service
after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import structlog

from mloc.services.artifacts.client import Transfer
from mloc.services.artifacts.client import TransferError as NotMoved
from mloc.services.clock import Clock
from mloc.services.transfers.remote_files import QUIET_SEC, SAY_EACH_SEC, Say
from mloc.services.transfers.results_api import ApiAddress
from mloc.services.transfers.transfer_errors import TransferError, shown_size, shown_url

AT_ONCE = 3
PAUSE_SEC, LONGEST_PAUSE_SEC = 1.0, 30.0
REFUSED_PAUSE_SEC = 10.0
_WAITS = frozenset({0, 500, 502, 503, 504, 507})  # 0: no answer; 507: its disk is full
_WRONG_CONTENT = 422  # what arrived has not the sha256 of what was sent
_REFUSES = frozenset({401, 403})  # this worker's token, or a service in front of the API
REFUSED_SEC = 900.0  # for a person to give both the same token
WRONG_TRIES = 3  # the network or a disk changes bytes: it may be the last time, or it may be always so

_log = structlog.get_logger("worker")


class AttemptFiles:
    """One worker's way to the API."""

    def __init__(self, api: ApiAddress, clock: Clock, patience_sec: float = 30.0, refused_sec: float = REFUSED_SEC) -> None:
        """`refused_sec`: how long the API may refuse this worker before a file is given up."""
        self.api = api
        self._clock = clock
        self._patience_sec = patience_sec
        self._refused_sec = refused_sec
        self._session: aiohttp.ClientSession | None = None
        self._room = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def put_all(self, task: str, attempt: int, files: Sequence[tuple[str, Path]], say: Say) -> None:
        """Files under their names in the attempt's folder. Raises TransferError for what waiting cannot help, OSError for a file."""
        moving = [asyncio.ensure_future(self.put(task, attempt, name, file, say)) for name, file in files]
        try:
            for one in moving:
                await one
        finally:
            for one in moving:
                one.cancel()
            await asyncio.gather(*moving, return_exceptions=True)

    async def put(self, task: str, attempt: int, name: str, file: Path, say: Say) -> None:
        """One file; the same one again changes nothing. Raises TransferError, OSError."""
        url = self.api.attempt_file(task, attempt, name)
        async with self._room:
            pause, wrong = PAUSE_SEC, 0
            refused_at: float | None = None
            while True:
                try:
                    await self._transfer().upload(url, file, progress=Progress(self._clock, name, say))
                    return
                except NotMoved as error:
                    is_wrong = error.status == _WRONG_CONTENT
                    wrong += is_wrong
                    if error.status in _REFUSES:
                        refused_at = self._clock.monotonic() if refused_at is None else refused_at
                        await self._wait_for_a_person(name, error, self._clock.monotonic() - refused_at, say)
                        continue
                    if error.status not in _WAITS and not (is_wrong and wrong < WRONG_TRIES):
                        raise TransferError(f"{name} could not be delivered to {shown_url(self.api.base)}: {error}") from error
                    say(f"{name} waits to be delivered to {shown_url(self.api.base)}: {error}")
                await self._clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SEC)

    async def _wait_for_a_person(self, name: str, error: NotMoved, since_sec: float, say: Say) -> None:
        """Raises TransferError where nobody came."""
        refused = f"{shown_url(self.api.base)} refuses {name} of this worker: {error}"
        if since_sec >= self._refused_sec:
            raise TransferError(
                f"{refused}. It was asked again for {since_sec / 60:.0f} minutes. Give the API and this worker the same ORCHESTRATOR_TOKEN, then "
                "retry the task: it goes on from the rows and the checkpoint that reached the API"
            ) from error
        left = self._refused_sec - since_sec
        _log.error("the API refuses this worker's files: give both the same ORCHESTRATOR_TOKEN", reason=refused, gives_up_in_sec=round(left))
        say(f"{refused}; it is asked again for another {left / 60:.0f} minutes: do both have the same ORCHESTRATOR_TOKEN?")
        await self._clock.sleep(min(REFUSED_PAUSE_SEC, left))

    def _transfer(self) -> Transfer:
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=True)
        return Transfer(self._session, headers=self.api.headers, patience_sec=self._patience_sec)


class Progress:
    """Says how far a slow upload is."""

    def __init__(self, clock: Clock, name: str, say: Say) -> None:
        self._clock, self._name, self._say = clock, name, say
        self._due = clock.monotonic() + QUIET_SEC

    def __call__(self, done: int, size: int) -> None:
        if (now := self._clock.monotonic()) >= self._due:
            self._say(f"delivering {self._name}: {shown_size(done)} of {shown_size(size)}")
            self._due = now + SAY_EACH_SEC
