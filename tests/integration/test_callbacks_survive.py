"""A receiver gets what it was promised when the aggregator that was just telling it is killed -9; its secret is in no file and no stream. And a
result goes when its time is over."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from whole_cell import WholeCell, echo_task

from mloc.services.log.redis_log import RedisLog
from mloc.services.server.record import find_server

SECRET = "s3cr3t-of-the-receiver"


class Receiver(ThreadingHTTPServer):
    """Answers nothing while `is_hanging` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.told: list[tuple[str, dict[str, str], Any]] = []
        self.answers = threading.Event()

    def keys(self, path: str) -> list[str]:
        return [headers["Idempotency-Key"] for at, headers, _ in self.told if at == path]


class _Taking(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.told.append((self.path, dict(self.headers), body))
        if self.server.answers.wait(60):
            self.send_response(204)
            self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def receiving() -> Iterator[tuple[str, Receiver]]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server
    finally:
        server.answers.set()
        server.shutdown()
        server.server_close()


def test_what_an_aggregator_was_telling_when_it_was_killed_is_told_by_the_next() -> None:
    cell = WholeCell()
    try:
        with receiving() as (url, receiver):
            more = (
                f"  output: {{destination: {{type: http, url: '{url}/result', headers: {{Authorization: Bearer {SECRET}}}}}}}\n"
                f"  notify: '{url}/done?token={SECRET}'\n"
            )
            (task,) = cell.submit(echo_task("t", more), "once", 30)
            cell.until(lambda: len(receiver.told) == 2, 30)
            assert _callbacks(cell, task) == {"result": "due", "notice": "due"}

            cell.kill("aggregator", 10)
            receiver.answers.set()

            cell.until(lambda: _callbacks(cell, task) == {"result": "made", "notice": "made"}, 60)
            for path in ("/result", f"/done?token={SECRET}"):
                keys = receiver.keys(path)
                assert len(keys) >= 2
                assert len(set(keys)) == 1
            assert all(headers["Authorization"] == f"Bearer {SECRET}" for path, headers, _ in receiver.told if path == "/result")
            shown = cell.command("mloc.services.intake.cli", "show", task)
            assert f"result to {url}/result delivered at " in shown.stdout
            assert "webhook *** delivered at " in shown.stdout
            assert "/done" not in shown.stdout
        cell.until(lambda: not asyncio.run(_kept_secrets(cell, task)), 20)
        (short,) = cell.submit(echo_task("short", "  ttl_sec: 1\n"), "short", 30)
        cell.until(lambda: cell.http("GET", f"/api/v1/tasks/{short}")[1].get("expired_at"), 30)
        assert cell.http("GET", f"/api/v1/results/{short}")[0] == 410
        assert not (cell.results / short).exists()
        assert (cell.results / task).is_dir()
        assert cell.stop() == 0
        assert [str(file) for file in cell.folder.rglob("*") if file.is_file() and "server" not in file.parts and _holds(file.read_bytes())] == []
    finally:
        cell.close()


def _callbacks(cell: WholeCell, task: str) -> dict[str, str]:
    _, shown = cell.http("GET", f"/api/v1/tasks/{task}")
    return {one["what"]: one["state"] for one in shown.get("callbacks", ())} if isinstance(shown, dict) else {}


async def _kept_secrets(cell: WholeCell, task: str) -> dict[str, str]:
    """What the server still keeps for the task beside the log; the log itself never shows it."""
    log = RedisLog(find_server(cell.state), "mloc")  # type: ignore[arg-type]
    try:
        position = "0-0"
        while entries := await log.read(position):
            assert not [entry for entry in entries if _holds(entry.payload)]
            position = entries[-1].id
        return await log.secrets(task)
    finally:
        await log.close()


def _holds(content: bytes) -> bool:
    return any(form in content for form in (SECRET.encode(), base64.b64encode(SECRET.encode())))
