"""Each protection of the protocol, taken out: a simulation that cannot find that is worth nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from mloc.core import fold, log_ids, task
from mloc.core.holdings import Holdings

LOG_PROTECTIONS = {"no epoch": "epoch", "no commit number": "commit number", "no check in START": "check in start"}


@contextmanager
def mutant(name: str) -> Iterator[dict[str, Any]]:
    """Gives the options of `run_history` with which the mutant lives."""
    if name in LOG_PROTECTIONS:
        yield {"without": frozenset({LOG_PROTECTIONS[name]})}
        return
    with _PATCHES[name]():
        yield {}


@contextmanager
def _no_echo_barrier() -> Iterator[None]:
    with patch("mloc.services.service_loop.log_ids", _NeverBefore):
        yield


class _NeverBefore:
    START = log_ids.START
    time_ms = staticmethod(log_ids.time_ms)

    @staticmethod
    def before(a: str, b: str) -> bool:
        return False


@contextmanager
def _no_guards() -> Iterator[None]:
    with patch.object(task, "is_open", lambda _: True), patch.object(fold.tasks, "is_open", lambda _: True):
        yield


@contextmanager
def _devices_freed_at_the_end_of_the_task() -> Iterator[None]:
    real = Holdings.mark_unneeded

    def free(self: Holdings, attempt: Any) -> None:
        real(self, attempt)
        for device in attempt.devices:
            self._devices[attempt.worker][device] = []

    def remove(self: Holdings, worker: str, key: Any, real_remove: Any = Holdings.remove) -> Any:
        attempt = self.by_worker.get(worker, {}).get(key)
        for device in attempt.devices if attempt else ():
            if key not in self._devices[worker][device]:
                self._devices[worker][device].append(key)
        return real_remove(self, worker, key)

    with patch.object(Holdings, "mark_unneeded", free), patch.object(Holdings, "remove", remove):
        yield


@contextmanager
def _stops_are_repeated() -> Iterator[None]:
    with patch.object(Holdings, "mark_stop_asked", lambda self, attempt: None):
        yield


@contextmanager
def _orphans_live_on() -> Iterator[None]:
    async def nothing(self: Any, hosts: Any) -> None: ...

    with patch("tests.simulation.hosts.SimulatedLauncher.kill_orphans", nothing):
        yield


@contextmanager
def _void_dispatch_keeps_its_number() -> Iterator[None]:
    with patch.object(fold.tasks, "used_up", lambda task, attempt: task):
        yield


_PATCHES = {
    "no echo barrier": _no_echo_barrier,
    "no guards in evolve": _no_guards,
    "devices freed at the end of the task": _devices_freed_at_the_end_of_the_task,
    "stops are repeated": _stops_are_repeated,
    "orphans live on": _orphans_live_on,
    "a void dispatch keeps its number": _void_dispatch_keeps_its_number,
}
MUTANTS = [*LOG_PROTECTIONS, *_PATCHES]
