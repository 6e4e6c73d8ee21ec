"""One URL onto this disk: resumed where it broke off, tried again where that can help, bounded, checked against a known digest.

What came so far lies in `<target>.part`, beside it in `<target>.part.json` the version of the file that it belongs to, so that a later
attempt goes on from there too. A file that the server changed meanwhile is begun anew (If-Range).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec
from msgspec import Struct

from mloc.services.clock import Clock
from mloc.services.transfers.transfer_errors import TransferError, shown_size, shown_url

CHUNK_BYTES = 1 << 20
TRIES, MOST_TRIES = 5, 100  # in a row without a byte more; in all
FIRST_PAUSE_SEC, LONGEST_PAUSE_SEC = 0.5, 30.0
CONNECT_SEC, SILENCE_SEC = 15.0, 60.0
MOST_REDIRECTS = 8
_WORTH_REPEATING = frozenset({408, 425, 429, 500, 502, 503, 504, 507})

Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0: not known)


class Version(Struct, frozen=True, omit_defaults=True):
    """By what a server tells one version of a file from another."""

    etag: str = ""
    last_modified: str = ""


class Request(Struct, frozen=True):
    """What to ask for. `headers` may hold secrets and go to the URL's own host only; with `known` an unchanged file is not sent again.

    `is_of_api`: the API of this cell is asked, which no header of a task can help with.
    """

    url: str
    headers: Mapping[str, str] = {}
    sha256: str = ""
    limit_bytes: int = 1 << 62
    known: Version | None = None
    is_of_api: bool = False


class Downloaded(Struct, frozen=True):
    """`unchanged`: the server still has the known version, and `target` was not written."""

    unchanged: bool = False
    size_bytes: int = 0
    sha256: str = ""
    version: Version = Version()
    content_type: str = ""
    file_name: str = ""


class _Broken(Exception):
    """One try ended early; the next may go on."""

    def __init__(self, reason: str, pause_sec: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_sec = pause_sec


def new_session() -> aiohttp.ClientSession:
    """Without a limit on the whole time: a large file takes as long as it takes, but not in silence."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SEC, sock_read=SILENCE_SEC)
    return aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=True)


async def download(session: aiohttp.ClientSession, clock: Clock, request: Request, target: Path, progress: Progress) -> Downloaded:
    """Fetch into `target`, which appears whole. Raises TransferError, OSError."""
    part = target.with_name(target.name + ".part")
    pause, failed, had = FIRST_PAUSE_SEC, 0, -1
    was_wrong = False
    for tried in range(1, MOST_TRIES + 1):
        try:
            came = await _try(session, request, part, progress)
            if came.unchanged:
                return came
            return await asyncio.to_thread(_accept, request, part, target, came)
        except _WrongDigest as error:
            if was_wrong:
                raise TransferError(str(error)) from error
            was_wrong = True
        except (_Broken, aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            has = part.stat().st_size if part.exists() else 0
            failed = 1 if has > had >= 0 else failed + 1
            had = has
            reason = str(error) or ("it gave no sign of life" if isinstance(error, TimeoutError) else type(error).__name__)
            if failed >= TRIES or tried == MOST_TRIES:
                raise TransferError(f"{shown_url(request.url)} could not be fetched: {reason}", retryable=True) from error
            asked = error.pause_sec if isinstance(error, _Broken) else 0.0
            await clock.sleep(min(max(pause, asked), LONGEST_PAUSE_SEC))
            pause = min(pause * 2, LONGEST_PAUSE_SEC)
    raise AssertionError("the last try returns or raises")


class _WrongDigest(Exception):
    """The bytes that came are not those that were promised."""


async def _try(session: aiohttp.ClientSession, request: Request, part: Path, progress: Progress) -> Downloaded:
    """One request; what it brings is appended to `part`."""
    offset, version = await asyncio.to_thread(_begun, part)
    async with _answer(session, request, _asking(request, offset, version)) as response:
        if response.status == 304:
            return Downloaded(unchanged=True)
        if response.status == 416:
            await asyncio.to_thread(_forget, part)
            raise _Broken("the server has less than was fetched before; it is begun anew")
        if response.status not in (200, 206):
            _refuse(request, response)
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            await asyncio.to_thread(_forget, part)
            raise _Broken("the server sent another range than was asked for")
        offset = offset if response.status == 206 else 0
        length = int(response.headers.get("Content-Length", 0) or 0)
        total = offset + length if length else 0
        if total > request.limit_bytes:
            raise _too_large(request, f"{shown_size(total)} are too much")
        version = Version(response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
        await asyncio.to_thread(_note, part, version, anew=offset == 0)
        size = await _receive(response, request, part, offset, total, progress)
        if total and size != total:
            raise _Broken(f"{shown_size(size)} of {shown_size(total)} came, then the connection ended")
        disposition = response.content_disposition
        name = (disposition.filename if disposition else None) or Path(urlsplit(str(response.url)).path).name
        return Downloaded(False, size, "", version, response.content_type, name)


async def _receive(response: aiohttp.ClientResponse, request: Request, part: Path, offset: int, total: int, progress: Progress) -> int:
    size = offset
    with await asyncio.to_thread(_opened, part, offset) as file:
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            size += len(chunk)
            if size > request.limit_bytes:
                raise _too_large(request, f"it is larger than {shown_size(request.limit_bytes)}")
            try:
                await asyncio.to_thread(file.write, chunk)
            except OSError as error:
                raise _no_room(error, part) from error
            progress(size, total)
    return size


@asynccontextmanager
async def _answer(session: aiohttp.ClientSession, request: Request, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
    """The response after redirects. The task's own headers stay with the host that they were meant for."""
    url = request.url
    for _ in range(MOST_REDIRECTS):
        own = request.headers if _origin(url) == _origin(request.url) else {}
        async with session.get(url, headers={**own, **headers}, allow_redirects=False) as response:
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                yield response
                return
            url = urljoin(url, location)
            if urlsplit(url).scheme not in ("http", "https"):
                raise TransferError(f"{shown_url(request.url)} leads to {shown_url(url)}, which is neither http nor https")
    raise TransferError(f"{shown_url(request.url)} leads from one address to the next without an end")


def _asking(request: Request, offset: int, version: Version) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        headers["If-Range"] = version.etag or version.last_modified
    elif request.known is not None:
        if request.known.etag:
            headers["If-None-Match"] = request.known.etag
        elif request.known.last_modified:
            headers["If-Modified-Since"] = request.known.last_modified
    return headers


def _refuse(request: Request, response: aiohttp.ClientResponse) -> None:
    """Raises what the status means."""
    said = f"{shown_url(request.url)} answers {response.status} {response.reason or ''}".strip()
    if response.status in _WORTH_REPEATING:
        after = response.headers.get("Retry-After", "")
        raise _Broken(said, float(after) if after.isdigit() else 0.0)
    if request.is_of_api and response.status in (401, 403):  # another worker may be set up better
        raise TransferError(f"{said}: the ORCHESTRATOR_TOKEN of this worker is not the API's", retryable=True)
    hint = {401: "; does it need headers?", 403: "; does it need headers?", 404: ": there is no such file"}.get(response.status, "")
    raise TransferError(said + hint, is_missing=response.status in (404, 410))


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _too_large(request: Request, why: str) -> TransferError:
    return TransferError(f"{shown_url(request.url)} is not fetched: {why}; the worker's WORKER_CACHE_SIZE bounds it")


def _no_room(error: OSError, part: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TransferError(f"the disk of {part.parent} is full: make room, or set a smaller WORKER_CACHE_SIZE", retryable=True)
    return error


# --- the partial file ---


def _begun(part: Path) -> tuple[int, Version]:
    """How far an earlier try came, and with which version; nothing where that cannot be gone on from."""
    try:
        version = msgspec.json.decode(_note_of(part).read_bytes(), type=Version)
        size = part.stat().st_size
    except (OSError, msgspec.MsgspecError):
        return 0, Version()
    can_resume = (version.etag and not version.etag.startswith("W/")) or (version.last_modified and not version.etag)
    return (size, version) if can_resume else (0, Version())


def _note(part: Path, version: Version, *, anew: bool) -> None:
    part.parent.mkdir(parents=True, exist_ok=True)
    if anew:
        part.unlink(missing_ok=True)
    _note_of(part).write_bytes(msgspec.json.encode(version))


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)


def _opened(part: Path, offset: int) -> BinaryIO:
    file = part.open("r+b" if offset else "wb", buffering=0)
    file.seek(offset)
    return file


def _accept(request: Request, part: Path, target: Path, came: Downloaded) -> Downloaded:
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    if request.sha256 and digest != request.sha256:
        _forget(part)
        raise _WrongDigest(f"{shown_url(request.url)} has the sha256 {digest[:12]}…, and {request.sha256[:12]}… was promised")
    os.replace(part, target)
    _note_of(part).unlink(missing_ok=True)
    return msgspec.structs.replace(came, sha256=digest)


def _note_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")
