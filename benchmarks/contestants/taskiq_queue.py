"""taskiq on Redis Streams (the broker that acknowledges) with stored results, tuned as a careful user would.

Messages are acknowledged after the result was stored; parameters are not parsed again; JSON by orjson where it is installed; results are
asked for every millisecond instead of five times a second. The worker is taskiq's own command on this file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from taskiq.serializers import JSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker
from world import World

from contestants.contestant import Contestant

URL = "BENCHMARK_URL"
ONE_AT_A_TIME = "BENCHMARK_ONE_AT_A_TIME"
CHUNK = 500
SENDERS = 32
PAUSE_SEC = 0.005


def broker(url: str, *, recovers_fast: bool) -> RedisStreamBroker:
    """`recovers_fast`: small reads, and what a dead worker had read is claimed after a second."""
    limits: dict[str, Any] = {"xread_count": 5, "idle_timeout": 1000} if recovers_fast else {"xread_count": 500}
    made = RedisStreamBroker(url, consumer_id="0", unacknowledged_lock_timeout=1.0, xread_block=1000, **limits)
    backend: RedisAsyncResultBackend[str] = RedisAsyncResultBackend(url, serializer=JSONSerializer())
    made.with_result_backend(backend)
    made.register_task(_echo, task_name="echo")
    return made


async def _echo(text: str, sleep_ms: int = 0) -> str:
    if sleep_ms:
        await asyncio.sleep(sleep_ms / 1000)
    return text


def worker_broker() -> RedisStreamBroker:
    """What the worker command calls."""
    return broker(os.environ[URL], recovers_fast=ONE_AT_A_TIME in os.environ)


class TaskiqQueue(Contestant):
    submits_batches = False

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self._world = world
        self._one_at_a_time = False
        self._workers = 1

    async def open(self) -> None:
        self._broker = broker(self._world.url, recovers_fast=False)
        await self._broker.startup()
        self._task = self._broker.find_task("echo")
        self._results = Redis.from_url(self._world.url)

    async def start(self, workers: int, *, one_at_a_time: bool = False) -> None:
        self._one_at_a_time, self._workers = one_at_a_time, workers
        self.restart_worker()
        await self.one("warm")

    def restart_worker(self) -> None:
        environ = {URL: self._world.url, **({ONE_AT_A_TIME: "1"} if self._one_at_a_time else {})}
        limits = ["--max-async-tasks", "1"] if self._one_at_a_time else ["--max-async-tasks", "200", "--max-prefetch", "300"]
        command = ["-m", "taskiq", "worker", "contestants.taskiq_queue:worker_broker", "--workers", str(self._workers), "--no-parse"]
        self._world.launch("worker-1", [*command, "--log-level", "WARNING", *limits], environ)

    async def submit_one_by_one(self, payloads: Sequence[str]) -> None:
        for payload in payloads:
            await self._task.kiq(payload)

    async def submit_batches(self, payloads: Sequence[str]) -> None:
        raise NotImplementedError

    async def end_to_end(self, payloads: Sequence[str], sleep_ms: int = 0) -> None:
        """Many senders at a time; results fetched a chunk in a round trip, in the order in which the tasks were sent."""
        ids = [""] * len(payloads)
        waiting = iter(enumerate(payloads))

        async def send() -> None:
            for number, payload in waiting:
                ids[number] = (await self._task.kiq(payload, sleep_ms)).task_id

        await asyncio.gather(*(send() for _ in range(SENDERS)))
        for first in range(0, len(ids), CHUNK):
            await self._read(ids[first : first + CHUNK], payloads[first : first + CHUNK])

    async def _read(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        decode = self._broker.result_backend.serializer.loadb  # type: ignore[attr-defined]
        missing = list(zip(ids, texts, strict=True))
        while missing:
            if await self._results.exists(missing[-1][0]):
                found = await self._results.mget([id for id, _ in missing])
                for (_, text), encoded in zip(missing, found, strict=True):
                    assert encoded is None or decode(encoded)["return_value"] == text
                missing = [one for one, encoded in zip(missing, found, strict=True) if encoded is None]
            if missing:
                self._world.check()
                await asyncio.sleep(PAUSE_SEC)

    async def one(self, payload: str) -> None:
        result = await (await self._task.kiq(payload)).wait_result(check_interval=0.001, timeout=60)
        assert result.return_value == payload

    async def afterwards(self, tasks: int) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        await self._broker.shutdown()
        await self._results.aclose()
