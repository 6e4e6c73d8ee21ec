"""An API, or what only looks like one, on a free port beside a test that runs commands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from aiohttp import web

Routes = dict[tuple[str, str], Callable[[web.Request], Any]]


class Served:
    """An application on a free port, in a thread of its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.url = ""

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app, beside = self._make()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
        following = asyncio.create_task(beside()) if beside else None
        self._started.set()
        await self._stop.wait()
        if following:
            following.cancel()
        await runner.cleanup()


def app_of(routes: Routes) -> Callable[[], tuple[web.Application, None]]:
    def make() -> tuple[web.Application, None]:
        app = web.Application()
        for (method, path), handler in routes.items():
            app.router.add_route(method, path, handler)
        return app, None

    return make
