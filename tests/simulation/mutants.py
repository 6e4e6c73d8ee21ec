"""Each protection of the protocol, taken out: a simulation that cannot find that is worth nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from mloc.core import fold, log_ids, task
from mloc.core.holdings import Holdings
from mloc.services.worker.hosts.host import Host
from mloc.services.worker.hosts.host_pool import HostNeed, HostPool

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


@contextmanager
def _one_joins_the_batch_of_any_engine() -> Iterator[None]:
    real = Holdings.batches

    def batches(self: Holdings, worker: str, engine: str) -> Iterator[tuple[tuple[int, ...], int]]:
        for other in sorted(set(self._shared.get(worker, {}).values())):
            yield from real(self, worker, other)

    with patch.object(Holdings, "batches", batches):
        yield


@contextmanager
def _one_joins_those_that_are_to_end() -> Iterator[None]:
    with patch.object(Holdings, "_is_to_end", lambda self, worker, key: False):
        yield


@contextmanager
def _a_host_starts_beside_another() -> Iterator[None]:
    real = HostPool._on_devices

    def those_that_leave(self: HostPool, need: HostNeed) -> list[Host]:
        return [host for host in real(self, need) if host.idle or host.killed]

    with patch.object(HostPool, "_on_devices", those_that_leave):
        yield


_PATCHES = {
    "no echo barrier": _no_echo_barrier,
    "no guards in evolve": _no_guards,
    "devices freed at the end of the task": _devices_freed_at_the_end_of_the_task,
    "stops are repeated": _stops_are_repeated,
    "orphans live on": _orphans_live_on,
    "a void dispatch keeps its number": _void_dispatch_keeps_its_number,
    "one joins the batch of any engine": _one_joins_the_batch_of_any_engine,
    "one joins those that are to end": _one_joins_those_that_are_to_end,
    "a host starts beside another": _a_host_starts_beside_another,
}
MUTANTS = [*LOG_PROTECTIONS, *_PATCHES]
