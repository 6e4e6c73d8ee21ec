"""The API over an event log in memory, and a hand that plays scheduler and worker. Each answer is held against openapi.json."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from msgspec import Raw

from mloc.core.codec import encode, type_of
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
from mloc.services.intake.cli import main
from mloc.services.intake.http.api import build_app
from mloc.services.log.connection import open_log
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.observer import Observer
from mloc.services.settings import Settings
from tests.services.intake.api_document import checked
from tests.services.intake.served import Served

ECHO = """apiVersion: mloc/v1
kind: EchoTask
metadata: {name: hello, owner: ada, project: p, labels: {team: x}}
spec:
  taskType: echo
  data: {prompts: [a, b]}
"""
PIPELINE = ECHO + "  stages: [{name: one}, {name: two}]\n"
WORKER = {"worker": "w", "incarnation": 1}
CLI = (sys.executable, "-m", "mloc.services.intake.cli")


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
        known = {"task_types": ("echo",), "hardware": Hardware("host", 4.0)}
        await self.append(WorkerRegistered(**WORKER, run_id=run_id, **{**known, **fields}))

    async def run(self, task: str, attempt: int = 1) -> None:
        report = {"task": task, "attempt": attempt, **WORKER}
        await self.append(TaskDispatched(**report), AttemptStarted(**report))

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


@pytest_asyncio.fixture
async def task(api: Api) -> str:
    """The id of a task whose first attempt runs."""
    await api.register()
    id = (await api.submit())["task_id"]
    await api.run(id)
    return id


class Cli:
    """The command in a folder of its own, over one namespace of a real server."""

    def __init__(self, url: str, namespace: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._client = redis.Redis.from_url(url)
        self._stream = f"{{{namespace}}}:events"
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        """Run it; its words are in `out` and `err`."""
        try:
            code = main(arguments)
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.err
        return code

    def json(self, *arguments: str, code: int = 0) -> dict:
        assert self(*arguments, "--json") == code, self.err
        return json.loads(self.out)

    def log(self) -> list[str]:
        """Types of what is in the log."""
        return [fields[b"type"].decode() for _, fields in self._client.xrange(self._stream)]

    def append(self, *events: Event) -> None:
        with self._client.pipeline(transaction=False) as together:
            for event in events:
                together.xadd(self._stream, {"type": type_of(event), "data": encode(event)})
            together.execute()

    def submit_echo(self) -> str:
        Path("hello.yaml").write_text(ECHO)
        return self.json("submit", "hello.yaml")["task_id"]


@pytest.fixture
def cli(valkey_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    folders = {"ORCHESTRATOR_STATE_DIR": str(tmp_path / "state"), "HOME": str(tmp_path)}
    for name, value in {"REDIS_URL": valkey_url, "MLOC_NAMESPACE": namespace, **folders}.items():
        monkeypatch.setenv(name, value)
    for name in ("VLLM_MODEL", "PPO_MODEL", "RESULTS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return Cli(valkey_url, namespace, capsys)


@pytest.fixture
def remote(cli: Cli, valkey_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """An API with a token over the same namespace."""
    settings = Settings(
        redis_url=valkey_url, mloc_namespace=namespace, orchestrator_state_dir=str(tmp_path / "api-state"),
        results_dir=str(tmp_path / "results"), orchestrator_token="geheim",
    )  # fmt: skip

    def make() -> tuple[web.Application, Any]:
        log = open_log(settings)
        observer = Observer(log)
        return build_app(settings, log, observer), observer.follow

    monkeypatch.setenv("ORCHESTRATOR_TOKEN", "geheim")
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path / "results"))
    with Served(make) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One for a whole module, of tests that change nothing; they run with `loop_scope="module"`."""
    async with serving(MemoryServer(lambda: int(time.time() * 1000)), tmp_path_factory.mktemp("api")) as one:
        yield one
