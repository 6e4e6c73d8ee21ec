"""`mloc-intake logs --follow --url`: each line once, from a stream that may break; asked for again and again only where an API has none."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from aiohttp import web
from msgspec import Raw

from mloc.core.events import AttemptSucceeded, ResultPublished, TaskDispatched, WorkerRegistered
from mloc.services.intake.commands.api_client import ApiClient
from mloc.services.log.connection import open_log
from mloc.services.log.event_log import TelemetryPoint
from mloc.services.settings import Settings
from tests.services.intake.conftest import PIPELINE, WORKER, Cli
from tests.services.intake.served import Served, app_of

VIEW = {"task_id": "t-1", "name": "t", "parent": None, "children": [], "stage": None, "reason": "", "worker_id": "w", "attempts": 1,
        "submitted_at": "2027-01-15T08:00:00.000Z", "started_at": None, "ended_at": "2027-01-15T08:00:01.000Z"}  # fmt: skip


def line_of(number: int) -> dict[str, Any]:
    return {"id": f"{number}-0", "at": "2027-01-15T08:00:00.000Z", "task_id": "t-1", "attempt": 1, "line": f"line {number}"}


def frame(number: int) -> bytes:
    return f"id: {number}-0\nevent: line\ndata: {json.dumps(line_of(number))}\n\n".encode()


def lines_in(text: str) -> list[str]:
    return [line.rpartition("| ")[2] for line in text.splitlines() if "| " in line]


class FakeApi:
    """Of one task that runs until its log has been read."""

    def __init__(self) -> None:
        self.resumed_after: list[str] = []
        self.is_over = False

    async def task(self, request: web.Request) -> web.Response:
        state = "published" if self.is_over else "running"
        return web.json_response({"ok": True, **VIEW, "state": state, "tasks": [], "spec": None})

    async def breaking_stream(self, request: web.Request) -> web.StreamResponse:
        self.resumed_after.append(request.query.get("last_event_id", ""))
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b": a sign of life\n\nid: 0-0\n\n" + frame(len(self.resumed_after)))
        if len(self.resumed_after) < 3:
            assert request.transport is not None
            request.transport.close()
        else:
            self.is_over = True
            await answer.write(b'event: end\ndata: {"task_id": "t-1"}\n\n')
        return answer

    async def pages(self, request: web.Request) -> web.Response:
        begin = int(request.query.get("after", "0-0").partition("-")[0]) + 1
        self.is_over = begin > 3
        return web.json_response({"ok": True, "lines": [line_of(begin)] if begin <= 3 else [], "next": None})


def test_a_stream_that_breaks_goes_on_after_its_last_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mloc.services.intake.commands.api_log_streams.AGAIN_SEC", 0.01)
    fake = FakeApi()
    with Served(app_of({("GET", "/api/v1/tasks/{id}"): fake.task, ("GET", "/api/v1/tasks/{id}/logs"): fake.breaking_stream})) as served:
        assert cli("logs", "t-1", "--follow", "--url", served.url) == 0, cli.err
    assert fake.resumed_after == ["", "1-0", "2-0"]
    assert lines_in(cli.err) == ["line 1", "line 2", "line 3"]


def test_an_api_without_a_stream_is_asked_again_and_again(cli: Cli) -> None:
    fake = FakeApi()
    with Served(app_of({("GET", "/api/v1/tasks/{id}"): fake.task, ("GET", "/api/v1/tasks/{id}/logs"): fake.pages})) as served:
        assert cli("logs", "t-1", "--follow", "--url", served.url) == 0, cli.err
    assert lines_in(cli.err) == ["line 1", "line 2", "line 3"]


def test_lines_of_all_parts_come_from_one_stream_and_nothing_is_polled(
    cli: Cli, remote: Served, valkey_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    asked: list[str] = []
    get = ApiClient.get

    async def noted(self: ApiClient, path: str, query: Any = {}) -> Any:  # noqa: B006
        asked.append(path)
        return await get(self, path, query)

    monkeypatch.setattr(ApiClient, "get", noted)
    (tmp_path / "chain.yaml").write_text(PIPELINE)
    ids = cli.json(str(tmp_path / "chain.yaml"))["task_ids"]
    settings = Settings(redis_url=valkey_url, mloc_namespace=namespace, orchestrator_state_dir=str(tmp_path / "other-state"))

    async def say(*said: tuple[str, str]) -> None:
        log = open_log(settings)
        await log.append_telemetry([(id, TelemetryPoint(1, line=line)) for id, line in said])
        await log.close()

    def work() -> None:
        cli.append(WorkerRegistered(**WORKER, task_types=("echo",)))
        for number, id in enumerate(ids[1:]):
            report = {"task": id, "attempt": 1, **WORKER}
            cli.append(TaskDispatched(**report))
            asyncio.run(say((id, f"begin {number}"), (id, f"end {number}")))
            cli.append(AttemptSucceeded(**report, result=Raw(b'{"ok":true}')), ResultPublished(task=id, attempt=1))
        cli.append(ResultPublished(task=ids[0], attempt=0))

    working = threading.Timer(0.5, work)
    working.start()
    assert cli("logs", ids[0], "--follow", "--url", remote.url) == 0, cli.err
    working.join()
    assert lines_in(cli.err) == ["begin 0", "end 0", "begin 1", "end 1"]
    assert not [path for path in asked if path.endswith("/logs")]
