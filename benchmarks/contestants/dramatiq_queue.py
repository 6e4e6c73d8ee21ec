"""dramatiq on Redis with stored results, at its durable best: a message is acknowledged after its result was stored.

Found by trying: few threads (they share one interpreter), a larger prefetch, a short worker time-out (its consumer polls with growing
pauses), and only the middleware that a reliable set-up needs. The worker is dramatiq's own command on this file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries, ShutdownNotifications
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from world import World

from contestants.contestant import Contestant

URL = "BENCHMARK_URL"
ONE_AT_A_TIME = "BENCHMARK_ONE_AT_A_TIME"
CHUNK = 500
PAUSE_SEC = 0.01


def broker(url: str, *, recovers_fast: bool) -> RedisBroker:
    """`recovers_fast`: a dead worker's messages come back after a second, which costs a search in every tenth command."""
    backend = RedisBackend(client=redis.Redis.from_url(url, socket_timeout=None))  # it waits for results longer than the default
    recovery = {"heartbeat_timeout": 1000, "maintenance_chance": 100_000} if recovers_fast else {}
    made = RedisBroker(url=url, middleware=[ShutdownNotifications(), Retries(), Results(backend=backend, store_results=True)], **recovery)
    dramatiq.set_broker(made)
    return made


def _echo(text: str, sleep_ms: int = 0) -> str:
    if sleep_ms:
        time.sleep(sleep_ms / 1000)
    return text


def worker_broker() -> RedisBroker:
    """What the worker command calls."""
    made = broker(os.environ[URL], recovers_fast=ONE_AT_A_TIME in os.environ)
    dramatiq.actor(_echo, actor_name="echo", queue_name="echo")
    return made


class DramatiqQueue(Contestant):
    submits_batches = False

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self._world = world
        self._one_at_a_time = False
        self._workers = 1

    async def open(self) -> None:
        self._broker = broker(self._world.url, recovers_fast=False)
        self._backend = next(one.backend for one in self._broker.middleware if isinstance(one, Results))
        self._echo = dramatiq.actor(_echo, actor_name="echo", queue_name="echo")

    async def start(self, workers: int, *, one_at_a_time: bool = False) -> None:
        self._one_at_a_time, self._workers = one_at_a_time, workers
        self.restart_worker()
        await self.one("warm")

    def restart_worker(self) -> None:
        threads = "1" if self._one_at_a_time else "4"
        prefetch = "2" if self._one_at_a_time else "64"
        environ = {URL: self._world.url, "dramatiq_worker_timeout": "10", "dramatiq_queue_prefetch": prefetch}
        if self._one_at_a_time:
            environ[ONE_AT_A_TIME] = "1"
        command = ["-m", "dramatiq", "contestants.dramatiq_queue:worker_broker", "--processes", str(self._workers), "--threads", threads]
        self._world.launch("worker-1", command, environ)

    async def submit_one_by_one(self, payloads: Sequence[str]) -> None:
        for payload in payloads:
            self._echo.send(payload)

    async def submit_batches(self, payloads: Sequence[str]) -> None:
        raise NotImplementedError

    async def end_to_end(self, payloads: Sequence[str], sleep_ms: int = 0) -> None:
        messages = [self._echo.send(payload, sleep_ms) for payload in payloads]
        for first in range(0, len(messages), CHUNK):
            self._read(messages[first : first + CHUNK], payloads[first : first + CHUNK])

    def _read(self, messages: Sequence[dramatiq.Message[str]], texts: Sequence[str]) -> None:
        """Wait for the last of a chunk, then fetch all of it in one round trip; again, for those that were overtaken."""
        backend = self._backend
        backend.get_result(messages[-1], block=True, timeout=60_000)
        missing = list(zip(messages, texts, strict=True))
        while missing:
            with backend.client.pipeline(transaction=False) as pipe:
                for message, _ in missing:
                    pipe.lindex(backend.build_message_key(message), 0)
                found = pipe.execute()
            for (_, text), encoded in zip(missing, found, strict=True):
                assert encoded is None or backend.unwrap_result(backend.encoder.decode(encoded)) == text
            missing = [one for one, encoded in zip(missing, found, strict=True) if encoded is None]
            if missing:
                self._world.check()
                time.sleep(PAUSE_SEC)

    async def one(self, payload: str) -> None:
        assert self._echo.send(payload).get_result(backend=self._backend, block=True, timeout=60_000) == payload

    async def afterwards(self, tasks: int) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        self._broker.close()
