"""The same event log, three ways: in memory, on the embedded Valkey, on a redis-server where one is on the PATH."""

from __future__ import annotations

import time
from typing import Any, Protocol

import redis

from mloc.core import codec
from mloc.core.answers import Answer
from mloc.core.events import (
    AttemptRecalled,
    AttemptStarted,
    AttemptStopRequested,
    AttemptSucceeded,
    Event,
    TaskCancelled,
    TaskDispatched,
    TaskSubmitted,
    WorkerLost,
    WorkerRegistered,
)
from mloc.services.log.event_log import Backlog, Entry, EventLog, Lease, Report
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.log.redis_log import RedisLog


class World(Protocol):
    """One namespace of one server."""

    def client(self) -> EventLog: ...

    def expire_lease(self, service: str) -> None: ...

    def forget_life(self, worker: str) -> None:
        """As if the worker's time to live had passed."""

    def cursor(self, group: str) -> str: ...

    async def close(self) -> None: ...


class MemoryWorld:
    def __init__(self) -> None:
        self.server = MemoryServer(lambda: int(time.time() * 1000))

    def client(self) -> EventLog:
        return MemoryLog(self.server)

    def expire_lease(self, service: str) -> None:
        self.server.state.leaders[service].expires = 0

    def forget_life(self, worker: str) -> None:
        self.server.state.workers[worker].alive_until = 0

    def cursor(self, group: str) -> str:
        return self.server.state.groups[group]

    async def close(self) -> None: ...


class RedisWorld:
    def __init__(self, url: str, namespace: str) -> None:
        self._url, self._namespace = url, namespace
        self._clients: list[RedisLog] = []
        self.raw: Any = redis.Redis.from_url(url, decode_responses=True)

    def client(self) -> EventLog:
        self._clients.append(RedisLog(self._url, self._namespace))
        return self._clients[-1]

    def expire_lease(self, service: str) -> None:
        self.raw.hset(self.key(f"leader:{service}"), "expires", 0)

    def forget_life(self, worker: str) -> None:
        self.raw.hset(self.key(f"worker:{worker}"), "alive_until", 0)

    def cursor(self, group: str) -> str:
        groups = {found["name"]: found["last-delivered-id"] for found in self.raw.xinfo_groups(self.key("events"))}
        return str(groups[group])

    def key(self, name: str) -> str:
        return f"{{{self._namespace}}}:{name}"

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        self.raw.close()


# --- what the tests write ---


def submitted(task: str, key: str = "", body_sha256: str = "") -> TaskSubmitted:
    return TaskSubmitted(task=task, task_type="echo", idempotency_key=key, body_sha256=body_sha256)


def registered(worker: str = "w", incarnation: int = 1) -> WorkerRegistered:
    return WorkerRegistered(worker=worker, incarnation=incarnation)


def dispatch(task: str, attempt: int = 1, worker: str = "w", incarnation: int = 1) -> Answer:
    event = TaskDispatched(task=task, attempt=attempt, worker=worker, incarnation=incarnation)
    return Answer(event, (worker, incarnation), b'{"extra":1}')


def stop(task: str, attempt: int = 1, worker: str = "w", incarnation: int = 1) -> Answer:
    return Answer(AttemptStopRequested(task=task, attempt=attempt, worker=worker, incarnation=incarnation), (worker, incarnation))


def recall(task: str, entry_id: str, worker: str = "w", incarnation: int = 1) -> Answer:
    event = AttemptRecalled(task=task, attempt=1, worker=worker, incarnation=incarnation, cause=entry_id)
    return Answer(event, (worker, incarnation), recall=entry_id)


def lost(worker: str = "w", incarnation: int = 1) -> Answer:
    return Answer(WorkerLost(worker=worker, incarnation=incarnation))


def cancelled(task: str) -> Answer:
    return Answer(TaskCancelled(task=task))


def started(task: str, worker: str = "w", incarnation: int = 1) -> AttemptStarted:
    return AttemptStarted(task=task, attempt=1, worker=worker, incarnation=incarnation)


def succeeded(task: str, seq: int, worker: str = "w", incarnation: int = 1, entry_id: str = "") -> Report:
    return Report(AttemptSucceeded(task=task, attempt=1, worker=worker, incarnation=incarnation, seq=seq), entry_id)


# --- what they look at ---


async def types(log: EventLog) -> list[str]:
    return [entry.type for entry in await everything(log)]


async def everything(log: EventLog) -> list[Entry]:
    found: list[Entry] = []
    while rows := await log.read(found[-1].id if found else "0-0"):
        found += rows
    return found


async def events(log: EventLog, type_: type[Event]) -> list[Any]:
    return [codec.decode(entry.type, entry.payload) for entry in await everything(log) if entry.type == type_.__name__]


class Leader:
    """A service that commits; as the loop does, it counts its commits."""

    def __init__(self, log: EventLog, lease: Lease, service: str) -> None:
        self.log, self.lease, self.service, self.commit_no = log, lease, service, lease.commit_no

    async def commit(self, *answers: Answer, position: str = "0-0", backlog: Backlog | None = None) -> str:
        last = await self.log.commit(self.service, self.lease.epoch, self.commit_no, position, answers, backlog=backlog)
        self.commit_no += 1
        return last


async def leading(log: EventLog, service: str = "scheduler", holder: str = "one") -> Leader:
    return Leader(log, await log.lease(service, holder), service)
