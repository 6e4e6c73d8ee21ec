"""Requests that never become one: a head that is too large, or what is no HTTP. They are answered in the API's one error shape, too.

aiohttp answers them itself, in plain text and with a traceback in the log that quotes the head, where a token may stand.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestPayloadError

from mloc.services.intake.http.api_guard import of_http
from mloc.services.intake.http.responses import ApiError

BACKLOG = 128  # connections that may wait to be taken


class RequestHandler(web.RequestHandler):
    """aiohttp's protocol of one connection, with other words for what cannot be read."""

    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Closes the connection after the answer. Raises ConnectionError where another one has begun."""
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        if isinstance(exc, LineTooLong):
            text = f"the first line of the request, or one of its headers, is longer than {self.max_line_size:,} bytes"
            error = ApiError(431, "head_too_large", text, hint="send data in the body, and a cursor instead of a long filter")
        else:
            error = ApiError(status, "malformed_request", "what was sent is no HTTP request", hint="is the URL http:// or https:// by mistake?")
        response = error.response()
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """An expectation is refused before any of the application's own code runs."""
        if isinstance(resp, web.HTTPException):
            resp = of_http(request, resp).response()
        return await super().finish_response(request, resp, start_time)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """A body that cannot be read was answered already; its rest is no news."""
        if not isinstance(sys.exc_info()[1], RequestPayloadError):
            super().log_exception(*args, **kw)


async def listen(runner: web.AppRunner, host: str, port: int) -> asyncio.Server:
    """Serve the application, which is set up, at the address; the caller closes it before the runner. Raises OSError."""
    loop, server = asyncio.get_running_loop(), runner.server
    assert server is not None

    def connection() -> RequestHandler:
        return RequestHandler(server, loop=loop, access_log=None)  # type: ignore[arg-type]  # as aiohttp's own runner does

    return await loop.create_server(connection, host, port, backlog=BACKLOG)
