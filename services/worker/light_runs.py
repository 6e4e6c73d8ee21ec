"""The attempts in the light host, which has many of them at a time: how many more it may get, and what becomes of those it cannot do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from msgspec import structs

from mloc.core.host_frames import FrameError, RunTask
from mloc.services.worker.attempt import Attempt
from mloc.services.worker.device_table import DeviceTable
from mloc.services.worker.hosts.host import Host
from mloc.services.worker.input_resolution import ResolutionError

IN_FLIGHT = 1024  # attempts in the light host at a time
BYTES_IN_FLIGHT = 8 * 1024 * 1024  # on their way to it


class LightRuns:
    """`prepare` begins an attempt once more from its inputs."""

    def __init__(self, table: DeviceTable, prepare: Callable[[Attempt], None]) -> None:
        self._table = table
        self._prepare = prepare
        self._count = 0
        self._suspects: deque[Attempt] = deque()  # that were in a host that died
        self._too_heavy: deque[Attempt] = deque()  # that the light host could not do: they wait for a slot

    def room(self, host: Host) -> int:
        """How many more may be started."""
        if self._suspects:
            return 0
        return IN_FLIGHT - self._count if host.unsent_bytes < BYTES_IN_FLIGHT else 0

    def begin(self) -> None:
        """One more has started, which ends with `end` or turns out to be heavy."""
        self._count += 1

    def run(self, host: Host, runs: Sequence[tuple[Attempt, RunTask]]) -> None:
        """Raises ResolutionError where the inputs are too large to be handed over."""
        hand_over(host, [frame for _, frame in runs])
        for attempt, _ in runs:
            attempt.stage = "running"
            host.attempts[attempt.key] = attempt

    def end(self, host: Host) -> None:
        """One of them has ended."""
        self._count -= 1
        self.try_next_suspect(host)

    # --- of a batch that a host died in ---

    def suspect(self, attempt: Attempt) -> None:
        """It was in a host that died with others in it: nobody knows which one did it."""
        attempt.stage = "preparing"
        self._suspects.append(attempt)

    def try_next_suspect(self, host: Host) -> None:
        """The batch that a light host died in runs again in another, one by one: who is alone when the next one dies has done it."""
        if self._suspects and not host.attempts:
            self._prepare(self._suspects.popleft())

    # --- too much for it ---

    def make_heavy(self, host: Host, attempt: Attempt) -> None:
        """What the light host can do nothing with, such as a result too large for an event, is run as any other task, in the same attempt."""
        attempt.stage = "preparing"
        attempt.dispatch = structs.replace(attempt.dispatch, light=False)
        self._too_heavy.append(attempt)
        self.end(host)

    def start_heavy(self) -> None:
        """Those that a slot is free for."""
        while self._too_heavy and self._table.take_those_with_room([self._too_heavy[0]]):
            self._prepare(self._too_heavy.popleft())

    def drop(self, attempt: Attempt) -> bool:
        """Whether it waited for a slot; it does no more."""
        if attempt not in self._too_heavy:
            return False
        self._too_heavy.remove(attempt)
        return True


def hand_over(host: Host, frames: Sequence[RunTask]) -> None:
    """Raises ResolutionError where the inputs are too large for that."""
    try:
        host.send(frames)
    except FrameError as error:
        raise ResolutionError(f"the results that this task depends on are too large to be handed over: {error}") from error
