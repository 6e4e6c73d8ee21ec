"""A small server that is told of the ends of tasks, and answers as a test says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

DEADLINE_SEC = 20.0


@dataclass
class Told:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """`answers` are given one after the other, the last again and again; None never answers."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.answers: list[web.Response | None] = []
        self.url = ""
        self._gone = asyncio.Event()

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.told.append(Told(request.method, request.path_qs, dict(request.headers), await request.read()))
        answer = self.answers[min(len(self.told), len(self.answers)) - 1] if self.answers else web.Response()
        if answer is None:
            await self._gone.wait()
            return web.Response()
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def until(self, count: int = 1) -> list[Told]:
        """What it was told, once that is so much."""
        deadline = time.monotonic() + DEADLINE_SEC
        while len(self.told) < count:
            assert time.monotonic() < deadline, self.told
            await asyncio.sleep(0.01)
        return self.told

    def close(self) -> None:
        self._gone.set()


@asynccontextmanager
async def receiving(*answers: web.Response | None, port: int = 0) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    receiver.answers = list(answers)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        receiver.close()
        await runner.cleanup()
