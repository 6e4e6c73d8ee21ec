"""A file as an answer: ranges, and an ETag that is its sha256 where that is known. Never another file in its place: aiohttp's own
FileResponse would send `model.tar.gz` for `model.tar` to whoever takes gzip."""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from aiohttp import ETag, hdrs, web

from mloc.services.artifacts.digests import repr_digest
from mloc.services.intake.http.responses import ApiError, not_found

_READ_BYTES = 256 * 1024
_SHOWN_INLINE = ("text/plain", "application/json", "image/png", "image/jpeg")


async def send_file(
    request: web.Request, path: Path, sha256: str = "", *, elsewhere: Callable[[], Path | None] | None = None
) -> web.StreamResponse:
    """`elsewhere` finds a file again that was moved since `path` was found. Raises ApiError 404, 412, 416."""
    try:
        file = await asyncio.to_thread(path.open, "rb")
    except OSError as error:
        moved = await asyncio.to_thread(elsewhere) if elsewhere is not None else None
        if moved is None:
            raise not_found("file", path.name) from error
        return await send_file(request, moved, sha256)
    try:
        status = os.fstat(file.fileno())
        tag = sha256 or f"{status.st_mtime_ns:x}-{status.st_size:x}"
        headers = _headers(path.name, tag, sha256)
        if request.if_match is not None and not _names(request.if_match, tag):
            raise ApiError(412, "precondition_failed", f"{path.name} is another content by now", path="If-Match")
        if request.if_none_match is not None and _names(request.if_none_match, tag):
            return web.Response(status=304, headers=headers)
        start, end = _range(request, tag, status.st_size)
        is_part = _is_ranged(request, tag) and "," not in request.headers["Range"]
        response = web.StreamResponse(status=206 if is_part else 200, headers=headers)
        if is_part:
            response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{status.st_size}"
        response.content_length = end - start
        response.last_modified = status.st_mtime
        await response.prepare(request)
        if request.method != "HEAD":
            with contextlib.suppress(ConnectionError):  # whoever asked has gone
                await _send(response, file, start, end)
                await response.write_eof()
        return response
    finally:
        file.close()


async def _send(response: web.StreamResponse, file: BinaryIO, start: int, end: int) -> None:
    file.seek(start)
    while start < end:
        piece = await asyncio.to_thread(file.read, min(_READ_BYTES, end - start))
        if not piece:  # the file became shorter: the connection ends before what was promised
            return
        await response.write(piece)
        start += len(piece)


def _headers(name: str, tag: str, sha256: str) -> dict[str, str]:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if mimetypes.guess_type(name)[1]:  # an archive is sent as it is, not as what it would unpack to
        kind = "application/octet-stream"
    shown = "inline" if kind in _SHOWN_INLINE else "attachment"
    headers = {
        "Content-Type": kind, "X-Content-Type-Options": "nosniff", "Accept-Ranges": "bytes", "ETag": f'"{tag}"', "Cache-Control": "no-cache",
        "Content-Disposition": f"{shown}; filename*=UTF-8''{quote(name, safe='')}",
    }  # fmt: skip
    if sha256:
        headers["Repr-Digest"] = repr_digest(sha256)
        headers["X-Content-SHA256"] = sha256
    return headers


def _names(tags: tuple[ETag, ...], tag: str) -> bool:
    return any(one.value in ("*", tag) for one in tags)


def _is_ranged(request: web.Request, tag: str) -> bool:
    """Whether a part is asked for, of the content that is there."""
    condition = request.headers.get("If-Range", "")
    asks = request.headers.get("Range", "").strip().lower().startswith("bytes=")  # other units are to be ignored
    return asks and (not condition or condition.strip() == f'"{tag}"')


def _range(request: web.Request, tag: str, size: int) -> tuple[int, int]:
    """First byte, and the one behind the last. Several ranges at once are not served: the whole file goes out instead."""
    if not _is_ranged(request, tag) or "," in request.headers["Range"]:
        return 0, size
    try:
        asked = request.http_range
    except ValueError:
        asked = slice(size, None)
    start = asked.start or 0
    if start < 0:
        start = max(0, size + start)
    end = min(asked.stop if asked.stop is not None else size, size)
    if start >= end or request.headers["Range"].strip().endswith("=-0"):  # the last none of them
        message = f"the file has {size:,} bytes; {request.headers['Range']!r} is none of them"
        raise ApiError(416, "bad_range", message, path="Range", headers={hdrs.CONTENT_RANGE: f"bytes */{size}"})
    return start, end
