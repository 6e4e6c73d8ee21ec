"""A small HTTP server for tests: it serves bytes by path, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from aiohttp import web
from aiohttp.test_utils import TestServer


class FileServer:
    """`files` by path; what is posted becomes one, as at the API.

    `cut_after`: connections end after so many bytes; `refuse`: statuses to answer first; `asked`: what was asked.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut_after: list[int] = []
        self.refuse: list[tuple[int, dict[str, str]]] = []
        self.redirect: dict[str, str] = {}
        self.has_etags = True
        self.held: asyncio.Event | None = None  # the second half of a file waits for it
        self.asked: list[web.Request] = []
        self.refuse_posts: list[int] = []
        self.held_posts: asyncio.Event | None = None
        self.on_request: Callable[[], None] = lambda: None
        app = web.Application()
        app.router.add_get("/{path:.*}", self._get)
        app.router.add_post("/{path:.*}", self._post)
        self._server = TestServer(app)

    async def start(self) -> None:
        await self._server.start_server()

    async def close(self) -> None:
        for held in (self.held, self.held_posts):
            if held is not None:
                held.set()
        await self._server.close()

    def url(self, path: str) -> str:
        return str(self._server.make_url("/" + path))

    def statuses_asked_with(self, header: str) -> list[str]:
        return [request.headers.get(header, "") for request in self.asked]

    async def _get(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.on_request()
        path = request.match_info["path"]
        if self.refuse:
            status, headers = self.refuse.pop(0)
            return web.Response(status=status, headers=headers)
        if path in self.redirect:
            return web.Response(status=302, headers={"Location": self.redirect[path]})
        if path not in self.files:
            return web.Response(status=404)
        return await self._send(request, self.files[path])

    async def _post(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        content = await request.read()
        if self.held_posts is not None:
            await self.held_posts.wait()
        if self.refuse_posts:
            return web.json_response({"error": {"message": "not now"}}, status=self.refuse_posts.pop(0))
        sha256 = hashlib.sha256(content).hexdigest()
        assert request.headers["X-Content-SHA256"] == sha256
        path = request.match_info["path"]
        self.files[path] = content
        return web.json_response({"path": path, "name": path, "size_bytes": len(content), "sha256": sha256, "url": self.url(path)}, status=201)

    async def _send(self, request: web.Request, content: bytes) -> web.StreamResponse:
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": etag} if self.has_etags else {}
        if self.has_etags and request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        first, status = 0, 200
        asked = request.headers.get("Range")
        if asked and request.headers.get("If-Range") == etag:
            first, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(len(content) - first)})
        await response.prepare(request)
        body = content[first:]
        if self.cut_after:
            await response.write(body[: self.cut_after.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return response
        if self.held is not None:
            await response.write(body[: len(body) // 2])
            await self.held.wait()
            body = body[len(body) // 2 :]
        await response.write(body)
        return response
