"""An asyncio event loop on a virtual clock: a wait costs no time, and the same seed gives the same history."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class Stalled(Exception):
    """Nothing is ready and no timer runs: every task waits for another."""


class _VirtualSelector(selectors.SelectSelector):
    """Instead of waiting it moves the loop's clock on."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stalled("nothing is ready and no timer runs")
        if timeout > 0:
            self.loop.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual seconds since the start."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = _VirtualSelector()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now


class VirtualClock:
    """The shell's Clock on the virtual loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))
