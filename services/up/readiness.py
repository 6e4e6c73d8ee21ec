"""How `mloc up` sees that everything is ready: the API answers, and every worker's registration is in the log."""

import asyncio
from typing import Any

import msgspec
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError

_PATIENCE_SEC = 0.2


async def last_event(url: str, namespace: str) -> str:
    """The id of the newest event, `0-0` where there is none; waits while the server loads its data."""
    while True:
        try:
            async with _client(url) as client:
                newest: Any = await client.xrevrange(_stream(namespace), count=1)
                return str(newest[0][0]) if newest else "0-0"
        except BusyLoadingError:
            await asyncio.sleep(_PATIENCE_SEC)


async def until_registered(url: str, namespace: str, position: str, workers: int) -> None:
    """Returns when `workers` workers registered after `position` in the control log."""
    seen = 0
    while seen < workers:
        try:
            async with _client(url) as client:
                while seen < workers:
                    streams: Any = await client.xread({_stream(namespace): position}, count=256, block=1000)
                    for _, entries in streams or []:
                        position = entries[-1][0]
                        seen += sum(fields.get("type", "").startswith("WorkerRegistered") for _, fields in entries)
        except (RedisError, OSError):
            await asyncio.sleep(_PATIENCE_SEC)


class _Health(msgspec.Struct):
    pid: int


async def healthy_pid(host: str, port: int) -> int | None:
    """The process that answers GET /healthz there as an API does; 0 for something else that answers, None where nothing does."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    try:
        return msgspec.json.decode(answer.partition(b"\r\n\r\n")[2], type=_Health).pid
    except msgspec.MsgspecError:
        return 0


def _client(url: str) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(url, protocol=2, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_timeout=None)


def _stream(namespace: str) -> str:
    return f"{{{namespace}}}:events"
