"""Event logs and a server of files for tests of the services."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from mloc.services.log.event_log import EventLog
from tests.log_server import LogServer
from tests.services.log.log_worlds import MemoryWorld, RedisWorld, World
from tests.services.transfers.file_server import FileServer

REDIS_SERVER = shutil.which("redis-server")  # the oldest server that MLOC supports is tested where it is installed
WORLDS = ["memory", "valkey", *(["redis"] if REDIS_SERVER else [])]


@pytest.fixture(scope="session")
def redis_7_url() -> Iterator[str]:
    assert REDIS_SERVER is not None
    server = LogServer(Path(REDIS_SERVER))
    server.start()
    yield server.url
    server.close()


@pytest_asyncio.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest, namespace: str) -> AsyncIterator[World]:
    made: World
    match request.param:
        case "memory":
            made = MemoryWorld()
        case "valkey":
            made = RedisWorld(request.getfixturevalue("valkey_url"), namespace)
        case _:
            made = RedisWorld(request.getfixturevalue("redis_7_url"), namespace)
    yield made
    await made.close()


@pytest.fixture
def log(world: World) -> EventLog:
    return world.client()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FileServer]:
    """Files over HTTP, as anybody's or as the API's."""
    made = FileServer()
    await made.start()
    yield made
    await made.close()
