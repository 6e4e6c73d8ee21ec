"""The API over an event log in memory, and a hand that plays scheduler and worker. Each answer is held against openapi.json."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from msgspec import Raw

from mloc.core.events import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    Error,
    Event,
    Hardware,
    ResultPublished,
    TaskDeadLettered,
    TaskDispatched,
    WorkerRegistered,
)
from mloc.services.intake.http.api import build_app
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.observer import Observer
from mloc.services.settings import Settings
from tests.services.intake.api_document import checked

ECHO = """apiVersion: mloc/v1
kind: EchoTask
metadata: {name: hello, owner: ada, project: p, labels: {team: x}}
spec:
  taskType: echo
  data: {prompts: [a, b]}
"""
WORKER = {"worker": "w", "incarnation": 1}


class Api:
    """A client of one API, the server of its log, and its folders."""

    def __init__(self, client: TestClient, memory: MemoryServer, observer: Observer, folder: Path) -> None:
        self.client = client
        self.memory = memory
        self.observer = observer
        self.results = folder / "results"
        self.state = folder / "state"

    async def get(self, path: str, **options) -> ClientResponse:
        return await checked(await self.client.get(path, **options))

    async def post(self, path: str, data=None, **options) -> ClientResponse:
        return await checked(await self.client.post(path, data=data, **options))

    async def submit(self, text: str = ECHO, **options) -> dict:
        response = await self.post("/api/v1/tasks", text.encode(), headers={"Content-Type": "text/yaml"}, **options)
        assert response.status == 201, await response.text()
        return await response.json()

    async def append(self, *events: Event) -> None:
        """Put events into the log and wait until the API has folded them."""
        submitted = await MemoryLog(self.memory).submit(list(events))
        assert await self.observer.reach(submitted.last_id, 5)

    async def register(self, **fields) -> None:
        run_id = await MemoryLog(self.memory).run_id()
        await self.append(WorkerRegistered(**WORKER, run_id=run_id, task_types=("echo",), hardware=Hardware("host", 4.0), **fields))

    async def run_to_result(self, task: str, result: bytes = b'{"ok":true,"items":[]}') -> None:
        report = {"task": task, "attempt": 1, **WORKER}
        await self.append(TaskDispatched(**report), AttemptStarted(**report), AttemptSucceeded(**report, result=Raw(result)))
        await self.append(ResultPublished(task=task, attempt=1))

    async def run_to_dead_letter(self, task: str) -> None:
        report, error = {"task": task, "attempt": 1, **WORKER}, Error("Boom", "it broke", retryable=False)
        await self.append(TaskDispatched(**report), AttemptStarted(**report), AttemptFailed(**report, error=error))
        await self.append(TaskDeadLettered(task=task, attempt=1, error=error))

    def logged(self) -> list[str]:
        """Types of what is in the log."""
        return [entry.type for entry in self.memory.state.entries]


@contextlib.asynccontextmanager
async def serving(memory: MemoryServer, folder: Path, **settings) -> AsyncIterator[Api]:
    log = MemoryLog(memory)
    observer = Observer(log)
    following = asyncio.create_task(observer.follow())
    folders = {"orchestrator_state_dir": str(folder / "state"), "results_dir": str(folder / "results")}
    app = build_app(Settings(**{**folders, **settings}), log, observer)
    async with TestClient(TestServer(app)) as client:
        yield Api(client, memory, observer, folder)
    following.cancel()


@pytest_asyncio.fixture
async def api(memory_server: MemoryServer, tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(memory_server, tmp_path) as one:
        yield one
