"""Waiting on the injected clock: for an event with a deadline, and for something that may never come, so that a person hears of it."""

from __future__ import annotations

import asyncio

from mloc.services.clock import Clock

SAY_EVERY_SEC = 30.0  # while the event log is waited for


async def wait_at_most(clock: Clock, event: asyncio.Event, seconds: float) -> bool:
    """Wait until the event is set, but not longer than `seconds`; whether it is set."""
    if event.is_set():
        return True
    waiters = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(clock.sleep(seconds))]
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
    return event.is_set()


class Reminder:
    """`due()` is true at once and then again every `every_sec`: a trouble that lasts is said again, in a log that nobody read from its start."""

    def __init__(self, clock: Clock, every_sec: float) -> None:
        self._clock = clock
        self._every_sec = every_sec
        self._began = clock.monotonic()
        self._said: float | None = None

    def due(self) -> bool:
        now = self._clock.monotonic()
        if self._said is not None and now - self._said < self._every_sec:
            return False
        self._said = now
        return True

    @property
    def waited_sec(self) -> int:
        """Since it was made."""
        return round(self._clock.monotonic() - self._began)
