"""What every contestant can do, so that all are measured by the same trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from world import World

PAYLOAD_BYTES = 1000


class Contestant(Protocol):
    """Tasks are echoes of a text of 1 KB: the result holds the text again, is stored by the worker and read by this process.

    A client is opened once; workers are processes of their own.
    """

    name: str
    submits_batches: bool

    def __init__(self, name: str, world: World) -> None: ...

    async def open(self) -> None:
        """Connect the client; no worker runs yet."""

    async def start(self, workers: int, *, one_at_a_time: bool = False) -> None:
        """Start everything that a task needs to run and wait until it does. `one_at_a_time`: a worker runs one task at a time, reliably."""

    def restart_worker(self) -> None:
        """After `World.kill("worker-1")`: the same worker again."""

    async def submit_one_by_one(self, payloads: Sequence[str]) -> None:
        """Each task is acknowledged by the server before the next one is sent."""

    async def submit_batches(self, payloads: Sequence[str]) -> None:
        """Many tasks in a round trip, as far as the contestant can."""

    async def end_to_end(self, payloads: Sequence[str], sleep_ms: int = 0) -> None:
        """Submit as fast as the contestant can and read every result; raises AssertionError where one is wrong."""

    async def one(self, payload: str) -> None:
        """Submit one task and wait for its result."""

    async def afterwards(self, tasks: int) -> dict[str, float]:
        """Further figures after `tasks` were done, such as what is still being written."""

    async def close(self) -> None: ...


def payloads(count: int, tag: str) -> list[str]:
    """Different texts of 1 KB."""
    return [f"{tag}-{number}-".ljust(PAYLOAD_BYTES, "x") for number in range(count)]
