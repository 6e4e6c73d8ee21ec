"""Live streams over real processes: 50 readers see the same exact sequence while the API and the server are killed under them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout

from mloc.services.log.redis_log import RedisLog
from tests.integration.service_stack import HEAD, Stack
from tests.log_server import LogServer
from tests.services.intake.sse_client import EventSource

READERS = 50
SUBMISSIONS = 120
DEADLINE_SEC = 90


@pytest.fixture
def server() -> Iterator[LogServer]:
    """Of its own, since it is killed; what it acknowledged is on disk."""
    one = LogServer(durability="always")
    one.start()
    yield one
    one.close()


@pytest.fixture
def stack(server: LogServer) -> Iterator[Stack]:
    one = Stack(server.url)
    one.start("scheduler", "aggregator", "worker", "intake-api")
    try:
        one.until(lambda: one.http("GET", "/readyz")[0] == 200)
        yield one
    finally:
        one.close()


async def read_until(stack: Stack, session: ClientSession, path: str, seen: list[str]) -> None:
    """As a browser does it: go on after the last id whenever the connection ends."""
    position = ""
    while True:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": position} if position else {})
        with contextlib.suppress(ClientError, OSError, asyncio.TimeoutError):
            async with session.get(f"http://127.0.0.1:{stack.port}{path}", headers=headers) as response:
                source = EventSource(response)
                async for one in source:
                    assert one.event != "gap", one
                    seen.append(one.id)
                    position = one.id
        await asyncio.sleep(0.05)


async def everything_in(url: str, namespace: str) -> list[str]:
    log = RedisLog(url, namespace)
    ids, position = [], "0-0"
    while entries := await log.read(position):
        ids += [entry.id for entry in entries]
        position = entries[-1].id
    await log.close()
    return ids


def test_fifty_readers_get_every_event_once_while_api_and_server_are_killed(stack: Stack, server: LogServer) -> None:
    async def go() -> None:
        seen: list[list[str]] = [[] for _ in range(READERS)]
        async with asyncio.timeout(DEADLINE_SEC), ClientSession(timeout=ClientTimeout(total=None)) as session:
            session.connector._limit = 0  # type: ignore[union-attr]
            readers = [
                asyncio.create_task(read_until(stack, session, "/api/v1/events?from=start&heartbeat=1", some)) for some in seen
            ]
            for number in range(SUBMISSIONS):
                if number == SUBMISSIONS // 3:
                    stack.services["intake-api"].kill()
                    await asyncio.to_thread(stack.services["intake-api"].wait, 30)
                    stack.start("intake-api")
                    await asyncio.to_thread(stack.until, lambda: stack.http("GET", "/readyz")[0] == 200)
                if number == 2 * SUBMISSIONS // 3:
                    await asyncio.to_thread(server.restart)
                body = HEAD.format(name=f"n{number}") + "  data: {prompts: [a]}\n"
                await asyncio.to_thread(stack.until, lambda body=body: stack.http("POST", "/api/v1/tasks", body)[0] == 201)
            await asyncio.to_thread(stack.until, lambda: stack.http("GET", "/api/v1/tasks?state=published&page_size=1")[1]["total"] >= SUBMISSIONS)
            ids = await everything_in(server.url, stack.environ["MLOC_NAMESPACE"])
            while not all(ids[-1] in some for some in seen):
                for reader in readers:
                    assert not reader.done(), reader.result()
                await asyncio.sleep(0.05)
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        for some in seen:
            assert some[: len(ids)] == ids

    asyncio.run(go())
    stack.services["intake-api"].terminate()
    assert stack.services["intake-api"].wait(30) == 0


def test_log_lines_of_a_real_task_are_followed_to_their_end(stack: Stack) -> None:
    body = HEAD.format(name="talks") + "  data: {prompts: [a, b]}\n  echo: {sleep_sec: 0.3}\n  parallel: {enabled: true, shards: 2}\n"
    status, answer = stack.http("POST", "/api/v1/tasks", body)
    assert status == 201, answer

    async def go() -> list[str]:
        async with asyncio.timeout(DEADLINE_SEC), ClientSession() as session:
            url = f"http://127.0.0.1:{stack.port}/api/v1/tasks/{answer['task_id']}/logs?follow=1"
            async with session.get(url, headers={"Accept": "text/event-stream"}) as response:
                got = await EventSource(response).rest()
        *lines, end = got
        assert (end.event, end.data["state"]) == ("end", "published")
        return [one.data["task_id"] for one in lines]

    parts = asyncio.run(go())
    assert set(parts) == {f"{answer['task_id']}.s0", f"{answer['task_id']}.s1"}
