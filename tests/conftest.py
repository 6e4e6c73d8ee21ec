"""What all tests share: the processes that they start import this checkout's rooms, as the tests themselves do."""

import logging
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio
import structlog

from mloc.services.log.memory_server import MemoryServer
from mloc.services.log.redis_log import RedisLog
from tests.log_server import LogServer

_TYPINGS = str(Path(__file__).parents[1] / "typings")
os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (_TYPINGS, os.environ.get("PYTHONPATH", "")) if part)

# how long an example takes says how busy the machine is, no more
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# a suite that was started in the background ignores ctrl-C, and so would every process that a test starts
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[LogServer]:
    """One real server for the whole run: each test takes a namespace of its own, and leaves the server as it was."""
    server = LogServer()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def valkey_url(valkey_server: LogServer) -> str:
    return valkey_server.url


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture
async def redis_log(valkey_url: str, namespace: str) -> AsyncIterator[RedisLog]:
    log = RedisLog(valkey_url, namespace)
    yield log
    await log.close()


@pytest.fixture
def memory_server() -> MemoryServer:
    return MemoryServer(lambda: int(time.time() * 1000))


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command that a test runs in this process sets up logging for good; the next test starts without that."""
    handlers, level, catching = logging.root.handlers[:], logging.root.level, logging.raiseExceptions
    yield
    structlog.reset_defaults()
    logging.root.handlers[:], logging.raiseExceptions = handlers, catching
    logging.root.setLevel(level)
