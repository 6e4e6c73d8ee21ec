"""A worker elsewhere that reaches the API through a proxy that ends TLS, as docs/running.md shows it: a token, and a certificate of one's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.far_workers import DEADLINE_SEC, FarWorkers
from tests.integration.whole_cell import WholeCell

TOKEN = "a-token-of-this-test"

pytestmark = [pytest.mark.deep, pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")]


class GuardedCell(WholeCell):
    """Its API wants the token."""

    def http(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, Any]:
        return super().http(method, path, body, Authorization=f"Bearer {TOKEN}", **headers)


class TlsProxy:
    """Listens on a free port of localhost and carries what comes to `port`, both ways."""

    def __init__(self, port: int, certificate: Path, key: Path) -> None:
        self._to = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._loop = asyncio.new_event_loop()
        self.connections = 0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._carry, "127.0.0.1", 0, ssl=self._context), self._loop)
        self.port = int(listening.result(20).sockets[0].getsockname()[1])

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
            await asyncio.gather(_copy(reader, back), _copy(there, writer), return_exceptions=True)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while piece := await source.read(1 << 16):
            target.write(piece)
            await target.drain()
    finally:
        target.close()


@pytest.fixture
def cell() -> Iterator[GuardedCell]:
    made = GuardedCell(workers=0, ORCHESTRATOR_TOKEN=TOKEN, MLOC_HOST="127.0.0.1")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def proxy(cell: GuardedCell, tmp_path: Path) -> Iterator[tuple[TlsProxy, Path]]:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    made = TlsProxy(cell.port, certificate, key)
    try:
        yield made, certificate
    finally:
        made.close()


def test_a_worker_delivers_and_fetches_through_tls_with_the_token(cell: GuardedCell, proxy: tuple[TlsProxy, Path]) -> None:
    # given two workers that know only the proxy's address, and its certificate
    tls, certificate = proxy
    environ = {"ORCHESTRATOR_BASE_URL": f"https://localhost:{tls.port}", "SSL_CERT_FILE": str(certificate), "ORCHESTRATOR_TOKEN": TOKEN}
    workers = FarWorkers(cell, "one", "two", **environ)
    try:
        # when one of them makes a large result, and the other one uses it
        items = json.dumps([f"{number} " + "x" * 900 for number in range(100)])
        yaml = f"""
apiVersion: mloc/v1
kind: EchoTask
metadata: {{name: tls}}
spec:
  taskType: echo
  stages:
    - name: large
      spec: {{resources: {{tags: [one]}}, data: {{type: list, items: {items}}}, echo: {{row_sleep_sec: 0.0001}}}}
    - name: last
      spec: {{resources: {{tags: [two]}}, data: {{prompts: ["${{large.result.items[99].output}}"]}}}}
"""
        (id, *_) = workers.submit(yaml, "tls")
        assert workers.until_ended(id, DEADLINE_SEC)["state"] == "published"
        # then it went through the proxy
        assert cell.http("GET", f"/api/v1/results/{id}.last")[1]["items"][0]["output"].startswith("99 x")
        assert tls.connections >= 2
        # and the token is in no output of a worker
        assert not any(TOKEN in workers.output(name) for name in ("one", "two"))
    finally:
        workers.close()
