"""What one client may take of the API, and what it may not: rates, bodies, headers, requests at a time, the backlog, odd URLs."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
from aiohttp import web

from mloc.services.intake.http.api import build_app
from mloc.services.intake.http.api_limits import TokenBuckets
from mloc.services.intake.http.malformed_requests import listen
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.observer import Observer
from mloc.services.settings import Settings
from tests.services.intake.conftest import ECHO, serving


def test_a_bucket_gives_its_rate_and_says_exactly_when_the_next_request_may_come():
    now = 100.0
    buckets = TokenBuckets(2.0, lambda: now)
    assert [buckets.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    now += 0.5
    assert (buckets.take("a"), buckets.take("a")) == (0, 0.5)
    now += 3600
    assert [buckets.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]


async def test_a_client_that_asks_too_often_is_told_when_to_come_back(memory_server, tmp_path):
    async with serving(memory_server, tmp_path, api_rate_limit=0.01) as api:
        assert (await api.get("/api/v1/tasks")).status == 200
        response = await api.get("/api/v1/tasks")
        assert (response.status, response.headers["Retry-After"]) == (429, "100")
        assert (await response.json())["error"]["code"] == "too_many_requests"
        assert (await api.get("/healthz")).status == 200


async def test_more_requests_at_a_time_than_the_bound_are_told_to_come_back(memory_server, tmp_path):
    async with serving(memory_server, tmp_path, api_max_requests=1) as api:
        never_ends = asyncio.get_running_loop().create_future()

        async def body():
            yield b"api"
            await never_ends

        first = asyncio.create_task(api.client.post("/api/v1/tasks", data=body()))
        async with asyncio.timeout(10):
            while (response := await api.get("/api/v1/tasks")).status == 200:
                await asyncio.sleep(0)
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert (await api.get("/readyz")).status in (200, 503)
        first.cancel()
        async with asyncio.timeout(10):
            while (await api.get("/api/v1/tasks")).status == 503:
                await asyncio.sleep(0)


async def test_a_body_that_does_not_come_is_given_up(memory_server, tmp_path):
    async with serving(memory_server, tmp_path, api_body_sec=0.2) as api:
        for path in ("/api/v1/tasks", "/api/v1/workers/w/elastic"):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
            writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\napi".encode())
            assert b" 408 " in await asyncio.wait_for(reader.readline(), 10)
            writer.close()


@pytest.mark.parametrize(
    "head",
    ["X: " + "a" * 9000, "\r\n".join(f"X{n}: 1" for n in range(500)), "Content-Length: -1",
     "Transfer-Encoding: chunked\r\nContent-Length: 3", "X\0: 1"],
    ids=["long header", "many headers", "negative length", "two lengths", "NUL"],
)  # fmt: skip
async def test_heads_that_are_too_large_or_wrong_are_refused_and_the_api_goes_on(api, head):
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    writer.write(f"GET /healthz HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    assert (await api.get("/healthz")).status == 200


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "POST", "BREW"])
@pytest.mark.parametrize(
    "path",
    ["/api/v1/tasks/%00", "/api/v1/tasks/%", "/api/v1/tasks/%zz", "/api/v1/tasks/%ff%fe", "/api/v1/tasks/" + "a" * 7000, "//", "/%2e%2e/%2e%2e",
     "/api/v1/results/%00", "/api/v1/results/%ff", "/api/v1/results/a%2fb", "/api/v1/results/..", "/api/v1/results/x/files/%00",
     "/api/v1/tasks/%00/events",
     "/workers/%00", "/workers/%ff", "/workers/%00/drain", "/api/v1/tasks?page=%00", "/api/v1/tasks?label=%ff",
     "/api/v1/tasks?since=9" + "9" * 30,
     "/api/v1/tasks?since=0001-01-01", "/api/v1/tasks?%00=1", "/api/v1/tasks/x/logs?after=9999999999999999999-9999999999999999999", "*"],
)  # fmt: skip
async def test_no_url_or_method_is_a_mistake_of_the_api(shared_api, method, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", shared_api.client.port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    status = int((await asyncio.wait_for(reader.readline(), 10)).split()[1])
    writer.close()
    assert 200 <= status < 500


async def test_many_submissions_at_once_do_not_overrun_the_backlog(memory_server, tmp_path):
    async with serving(memory_server, tmp_path, backlog_limit=10) as api:
        responses = await asyncio.gather(*(api.post("/api/v1/tasks", ECHO) for _ in range(60)))
        assert sorted(response.status for response in responses) == [201] * 10 + [429] * 50
        assert all(response.headers["Retry-After"] for response in responses if response.status == 429)
        assert api.logged().count("TaskSubmitted") == 10


async def test_an_api_that_only_reads_answers_every_write_with_403(memory_server, tmp_path):
    async with serving(memory_server, tmp_path, api_read_only=True) as api:
        for path in ("/api/v1/tasks", "/api/v1/tasks/x/cancel", "/workers/w/drain"):
            response = await api.post(path, ECHO)
            assert (response.status, (await response.json())["error"]["code"]) == (403, "read_only")
        assert (await api.get("/api/v1/tasks")).status == 200


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"GET /api/v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret" + b"s" * 20_000, 431, "head_too_large"),
        (b"GET /api/v1/tasks?owner=" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x", 431, "head_too_large"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "malformed_request"),
        (b"GET /api/v1/tasks HTTP/1.1\r\nno colon", 400, "malformed_request"),
        (b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 21\r\n", 400, "unreadable_body"),
        (b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nExpect: foo", 417, "bad_request"),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\nExpect: foo", 417, "bad_request"),
        (b"GET /healthz HTTP/1.1\r\nHost: x", 200, ""),
    ],
)  # fmt: skip
async def test_a_request_that_cannot_be_read_is_answered_in_the_one_error_shape_and_not_quoted_in_the_log(
    memory_server: MemoryServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, head: bytes, status: int, code: str
) -> None:
    log = MemoryLog(memory_server)
    settings = Settings(orchestrator_state_dir=str(tmp_path / "state"), results_dir=str(tmp_path / "results"))
    runner = web.AppRunner(build_app(settings, log, Observer(log)), access_log=None)
    await runner.setup()
    server = await listen(runner, "127.0.0.1", 0)
    caplog.set_level(logging.DEBUG)
    try:
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(head + b"\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
    finally:
        server.close()
        await runner.cleanup()
    first, _, rest = answer.partition(b"\r\n")
    assert int(first.split()[1]) == status
    body = json.loads(rest.partition(b"\r\n\r\n")[2])
    assert (body.get("ok"), body.get("error", {}).get("code", "")) == (status == 200, code)
    assert "secret" not in caplog.text
    assert "Traceback" not in caplog.text
