"""A response that goes on: Server-Sent Events, lines of JSON, or lines of text, by what the client accepts.

A client that takes nothing for a while is let go; it can go on where it was. What waits for it is one transport's buffer, never a queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from aiohttp import web

PIECE_BYTES = 64 * 1024
PATIENCE_SEC = 60.0
RECONNECT_MS = 2000

Form = Literal["sse", "ndjson", "text"]
_TYPES: dict[Form, str] = {"sse": "text/event-stream", "ndjson": "application/x-ndjson", "text": "text/plain"}


class ReaderGone(Exception):
    """The client closed the connection, or took nothing for too long."""


def form_of(request: web.Request) -> Form:
    """Events for `text/event-stream`, text for `text/plain`, else lines of JSON."""
    accepted = request.headers.get("Accept", "")
    if "text/event-stream" in accepted:
        return "sse"
    return "text" if "text/plain" in accepted else "ndjson"


class StreamedResponse:
    """`begin`, then `send` and `idle` by turns, then `end`."""

    def __init__(self, request: web.Request, form: Form, heartbeat_sec: float) -> None:
        self.form = form
        self._request = request
        self._heartbeat_sec = heartbeat_sec
        self._sent_at = time.monotonic()
        self._response = web.StreamResponse(
            headers={"Content-Type": f"{_TYPES[form]}; charset=utf-8", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )

    async def begin(self, position: str = "") -> None:
        """`position` is where a client that gets nothing else goes on. Raises ReaderGone."""
        try:
            await self._response.prepare(self._request)
        except ConnectionError as error:  # it left before the first byte
            raise ReaderGone from error
        if self.form == "sse":
            await self._write(f"retry: {RECONNECT_MS}\n{f'id: {position}' if position else ': hello'}\n\n".encode())

    async def send(self, frames: Iterable[bytes]) -> None:
        """Raises ReaderGone."""
        piece: list[bytes] = []
        size = 0
        for frame in frames:
            piece.append(frame)
            size += len(frame)
            if size >= PIECE_BYTES:
                await self._write(b"".join(piece))
                piece, size = [], 0
        if size:
            await self._write(b"".join(piece))

    async def idle(self, position: str = "") -> None:
        """A sign of life where it is time for one, so that proxies keep the connection; with how far the log was looked through."""
        if time.monotonic() - self._sent_at < self._heartbeat_sec:
            return
        match self.form:
            case "sse":
                await self._write(f": nothing new\nid: {position}\n\n".encode() if position else b": nothing new\n\n")
            case "ndjson":
                await self._write(b"\n")
            case "text":
                if self._request.transport is None:
                    raise ReaderGone

    async def end(self, event: str = "", value: Any = None) -> web.StreamResponse:
        """With a last event without an id, for those who would come back."""
        if event and self.form == "sse":
            await self._write(b"event: %s\ndata: %s\n\n" % (event.encode(), msgspec.json.encode(value)))
        elif event == "gap" and self.form == "ndjson":
            await self._write(msgspec.json.encode({"type": event, **value}) + b"\n")
        try:
            await self._response.write_eof()
        except ConnectionError as error:
            raise ReaderGone from error
        return self._response

    def let_go(self) -> web.StreamResponse:
        """After ReaderGone."""
        if self._request.transport is not None:
            self._request.transport.abort()
        return self._response

    async def _write(self, piece: bytes) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SEC):
                await self._response.write(piece)
        except (ConnectionError, TimeoutError) as error:
            raise ReaderGone from error
        self._sent_at = time.monotonic()


def sse_frame(id: str, event: str, json: bytes) -> bytes:
    """One event; the JSON is in one line."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (id.encode(), event.encode(), json)
