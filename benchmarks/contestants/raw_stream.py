"""The least that a queue on Redis Streams can do, as a yardstick: XADD, XREADGROUP, XADD of the result with XACK. It guarantees nothing.

This file is the worker, too: `python -m contestants.raw_stream URL CONSUMER SLEEP_MS`.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import redis
from world import World

from contestants.contestant import Contestant

BATCH = 100
READ = 256


class RawStream(Contestant):
    submits_batches = True

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self._world = world

    async def open(self) -> None:
        self._client = redis.Redis.from_url(self._world.url, protocol=2)
        with contextlib.suppress(redis.ResponseError):  # it is there
            self._client.xgroup_create("tasks", "workers", "0", mkstream=True)
        self._read_to = b"0-0"

    async def start(self, workers: int, *, one_at_a_time: bool = False) -> None:
        self._sleep_ms = 20 if one_at_a_time else 0
        for number in range(1, workers + 1):
            self._launch(number)
        await self.one("warm")

    def restart_worker(self) -> None:
        self._launch(1)

    def _launch(self, number: int) -> None:
        self._world.launch(f"worker-{number}", ["-m", "contestants.raw_stream", self._world.url, f"c{number}", str(self._sleep_ms)])

    async def submit_one_by_one(self, payloads: Sequence[str]) -> None:
        for payload in payloads:
            self._client.xadd("tasks", {"data": payload})

    async def submit_batches(self, payloads: Sequence[str]) -> None:
        for first in range(0, len(payloads), BATCH):
            with self._client.pipeline(transaction=False) as pipe:
                for payload in payloads[first : first + BATCH]:
                    pipe.xadd("tasks", {"data": payload})
                pipe.execute()

    async def end_to_end(self, payloads: Sequence[str], sleep_ms: int = 0) -> None:
        await self.submit_batches(payloads)
        missing = set(payloads)
        while missing:
            missing.difference_update(self._results())

    async def one(self, payload: str) -> None:
        self._client.xadd("tasks", {"data": payload})
        while payload not in self._results():
            pass

    async def afterwards(self, tasks: int) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        self._client.close()

    def _results(self) -> list[str]:
        reply: Any = self._client.xread({"results": self._read_to}, count=READ, block=1000)
        if not reply:
            self._world.check()
            return []
        rows = reply[0][1]
        self._read_to = rows[-1][0]
        return [fields[b"data"].decode() for _, fields in rows]


def work(url: str, consumer: str, sleep_ms: int) -> None:
    """A worker: what it had read before it died comes first."""
    client = redis.Redis.from_url(url, protocol=2)
    after = "0"
    while True:
        reply: Any = client.xreadgroup("workers", consumer, {"tasks": after}, count=READ, block=1000)
        rows = reply[0][1] if reply else []
        if not rows:
            after = ">"
            continue
        for first in range(0, len(rows), 1 if sleep_ms else READ):
            some = rows[first : first + (1 if sleep_ms else READ)]
            time.sleep(sleep_ms / 1000 * len(some))
            with client.pipeline(transaction=False) as pipe:
                for _, fields in some:
                    pipe.xadd("results", {"data": fields[b"data"]})
                pipe.xack("tasks", "workers", *(id for id, _ in some))
                pipe.execute()


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]))
