"""A worker's transfers around an attempt: what it needs is fetched before, what it gave is delivered after."""

from __future__ import annotations

import msgspec

from mloc.core.host_frames import RunTask
from mloc.services.clock import Clock
from mloc.services.log.event_log import LogUnavailable, ServerChanged
from mloc.services.results.results_mark import SharedFolder
from mloc.services.transfers.input_fetching import InputFetcher
from mloc.services.transfers.remote_files import Say

PAUSE_SEC = 0.5


class Transfers:
    """One worker's. Keys are (task, attempt); `release` ends what was kept for one."""

    def __init__(self, shared: SharedFolder, inputs: InputFetcher, clock: Clock) -> None:
        self._shared = shared
        self._inputs = inputs
        self._clock = clock

    async def fetch(self, frame: RunTask, say: Say) -> RunTask:
        """The frame with what its spec names elsewhere on this disk. Raises TransferError."""
        here = await self._inputs.fetch((frame.task, frame.attempt), frame.spec, frame.inputs, say, is_shared=await self.is_shared())
        return msgspec.structs.replace(frame, fetched=here.fetched, inputs=here.inputs) if here.fetched or here.inputs != frame.inputs else frame

    def release(self, key: tuple[str, int]) -> None:
        self._inputs.release(key)

    async def is_shared(self) -> bool:
        """Whether the aggregator's results folder is this worker's; waits for a log that cannot be reached."""
        while True:
            try:
                return await self._shared.is_shared()
            except (LogUnavailable, ServerChanged):
                await self._clock.sleep(PAUSE_SEC)

    async def close(self) -> None:
        await self._inputs.close()
