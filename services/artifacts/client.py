"""Files to and from the API over connections that may break: both ways go on from the byte that arrived, and check the sha256 at the end.

    async with aiohttp.ClientSession() as session:
        transfer = Transfer(session, token="…")
        stored = await transfer.upload("http://host:8000/api/v1/results/ID/files/model.tar.gz?attempt=2", Path("model.tar.gz"))
        await transfer.download(stored.url, Path("copy.tar.gz"), sha256=stored.sha256)

Memory is constant. A try that gets further starts the patience anew; a refusal that trying again cannot help ends it at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin

import aiohttp
import msgspec
from msgspec import Struct

from mloc.services.artifacts.digests import HEX_HEADER, file_sha256, repr_digest
from mloc.services.durable_files import sync_folder

READ_BYTES = 256 * 1024
AT_ONCE_BYTES = 1 << 20  # a smaller file goes in one request
PATIENCE_SEC = 300.0  # without a byte of progress
FIRST_RETRY_SEC, LONGEST_RETRY_SEC = 0.2, 10.0
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_DONE = (HTTPStatus.OK, HTTPStatus.CREATED)

Progress = Callable[[int, int], object]
"""Told (bytes done, bytes in all, -1 for unknown) as they move."""
Answer = TypeVar("Answer")


class TransferError(Exception):
    """A file that could not be moved; `status` is the answer's, 0 for none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Stored(Struct, frozen=True):
    """What the API answers."""

    path: str
    name: str
    size_bytes: int
    sha256: str
    url: str


class _Again(Exception):
    """Trying again may help."""


class Transfer:
    """Moves files in one session. `headers` go with every request; the token is `Authorization: Bearer`."""

    def __init__(
        self, session: aiohttp.ClientSession, *, token: str = "", headers: Mapping[str, str] | None = None, patience_sec: float = PATIENCE_SEC
    ) -> None:
        self._session = session
        self._headers = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        self._patience_sec = patience_sec

    async def upload(self, url: str, file: Path, *, sha256: str = "", progress: Progress | None = None) -> Stored:
        """Upload to a `…/files/{name}` of the API. Raises TransferError, OSError for the file."""
        size = file.stat().st_size
        upload = _Sending(file, size, sha256 or await asyncio.to_thread(file_sha256, file), progress or _silent)
        headers = {"Repr-Digest": repr_digest(upload.sha256), HEX_HEADER: upload.sha256, "Upload-Length": str(size)}
        if size <= AT_ONCE_BYTES:
            return await self._patiently(lambda: self._send(upload, "POST", url, 0, headers), upload.mark)
        place = ""

        async def further() -> Stored:
            nonlocal place
            if not place:
                begun, offset = await self._begin(url, headers)
                if isinstance(begun, Stored):
                    upload.progress(size, size)
                    return begun
                place = begun
            else:
                offset = await self._offset(place)
                if offset < 0:  # it has expired, or its content was refused
                    place = ""
                    raise _Again("the upload begins anew")
            return await self._send(upload, "PATCH", place, offset, {"Content-Type": "application/partial-upload", "Upload-Offset": str(offset)})

        return await self._patiently(further, upload.mark)

    async def download(self, url: str, file: Path, *, sha256: str = "", progress: Progress | None = None) -> str:
        """Download to `file`, which appears whole; gives its sha256. What arrived before is used again. Raises TransferError, OSError.

        `sha256`, else the one that the server says, is checked.
        """
        partial = file.with_name(f".{file.name}.download")
        file.parent.mkdir(parents=True, exist_ok=True)
        receiving = _Fetching(partial, sha256, progress or _silent)
        try:
            found = await self._patiently(lambda: self._fetch(url, receiving), receiving.mark)
        except TransferError:
            if receiving.is_useless:
                partial.unlink(missing_ok=True)
            raise
        os.replace(partial, file)
        await asyncio.to_thread(sync_folder, file.parent)
        return found

    # --- upload ---

    async def _begin(self, url: str, headers: dict[str, str]) -> tuple[Stored | str, int]:
        """The upload's own URL, and how much of it is there already; or what is stored, where the API has the content."""
        async with self._session.post(url, headers={**self._headers, **headers, "Upload-Complete": "?0"}, timeout=_TIMEOUT) as answer:
            await _accepted(answer)
            if answer.headers.get("Upload-Complete") == "?1":
                return await _stored(answer), 0
            return urljoin(str(answer.url), answer.headers["Location"]), int(answer.headers.get("Upload-Offset", "0"))

    async def _offset(self, place: str) -> int:
        """-1 where the upload is not there any more."""
        async with self._session.head(place, headers=self._headers, timeout=_TIMEOUT) as answer:
            if answer.status == HTTPStatus.NOT_FOUND:
                return -1
            await _accepted(answer)
            return int(answer.headers["Upload-Offset"])

    async def _send(self, upload: _Sending, method: str, url: str, offset: int, headers: dict[str, str]) -> Stored:
        upload.reached(offset)
        length = {"Content-Length": str(upload.size - offset), "Upload-Complete": "?1"}
        async with self._session.request(
            method, url, data=upload.rest(offset), headers={**self._headers, **headers, **length}, timeout=_TIMEOUT
        ) as answer:
            if answer.status == HTTPStatus.CONFLICT and "Upload-Offset" in answer.headers:
                raise _Again("the upload is at another byte")
            await _accepted(answer)
            return await _stored(answer)

    # --- download ---

    async def _fetch(self, url: str, receiving: _Fetching) -> str:
        offset = await asyncio.to_thread(receiving.resume)
        headers = dict(self._headers) | {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if receiving.tag:
                headers["If-Range"] = receiving.tag
        async with self._session.get(url, headers=headers, timeout=_TIMEOUT) as answer:
            if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
                if whole.isdecimal() and int(whole) == offset:
                    return await asyncio.to_thread(receiving.finish)
                await asyncio.to_thread(receiving.begin_anew)
                raise _Again("what arrived is not of this file")
            await _accepted(answer)
            if offset and answer.status != HTTPStatus.PARTIAL_CONTENT:
                await asyncio.to_thread(receiving.begin_anew)
            receiving.promised(answer)
            async for chunk in answer.content.iter_chunked(READ_BYTES):
                await asyncio.to_thread(receiving.write, chunk)
        return await asyncio.to_thread(receiving.finish)

    # --- patience ---

    async def _patiently(self, attempt: Callable[[], Awaitable[Answer]], mark: Callable[[], int]) -> Answer:
        clock = asyncio.get_running_loop().time
        deadline, best, delay = clock() + self._patience_sec, -1, FIRST_RETRY_SEC
        while True:
            try:
                return await attempt()
            except (_Again, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
                if mark() > best:
                    best, deadline, delay = mark(), clock() + self._patience_sec, FIRST_RETRY_SEC
                if clock() + delay > deadline:
                    raise TransferError(f"no progress for {self._patience_sec:g} s: {error or type(error).__name__}") from error
            except aiohttp.ClientError as error:
                raise TransferError(str(error) or type(error).__name__) from error
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_RETRY_SEC)


class _Sending:
    """A file on its way out. `mark` only grows: how far the server confirmed it."""

    def __init__(self, file: Path, size: int, sha256: str, progress: Progress) -> None:
        self.file, self.size, self.sha256, self.progress = file, size, sha256, progress
        self._confirmed = 0

    def mark(self) -> int:
        return self._confirmed

    def reached(self, offset: int) -> None:
        self._confirmed = max(self._confirmed, offset)
        self.progress(offset, self.size)

    async def rest(self, offset: int) -> AsyncIterator[bytes]:
        with self.file.open("rb") as file:
            file.seek(offset)
            while offset < self.size and (piece := await asyncio.to_thread(file.read, min(READ_BYTES, self.size - offset))):
                yield piece
                offset += len(piece)
                self.progress(offset, self.size)


class _Fetching:
    """A file on its way in, in `partial`; what an earlier call left there is hashed first."""

    def __init__(self, partial: Path, sha256: str, progress: Progress) -> None:
        self.partial, self.sha256 = partial, sha256
        self.tag = ""
        self.is_useless = False
        self._progress = progress
        self._digest, self._offset, self._size = hashlib.sha256(), 0, -1
        if not sha256:  # nothing says that it is of the same file
            partial.unlink(missing_ok=True)

    def mark(self) -> int:
        return self._offset

    def resume(self) -> int:
        if not self._offset and self.partial.exists():
            with self.partial.open("rb") as file:
                while piece := file.read(READ_BYTES):
                    self._digest.update(piece)
                    self._offset += len(piece)
        return self._offset

    def begin_anew(self) -> None:
        self.partial.unlink(missing_ok=True)
        self._digest, self._offset = hashlib.sha256(), 0

    def promised(self, answer: aiohttp.ClientResponse) -> None:
        """What the server says of the whole file."""
        tag = answer.headers.get("ETag", "")
        self.tag = tag if not tag.startswith("W/") else ""
        self.sha256 = self.sha256 or answer.headers.get(HEX_HEADER, "")
        if answer.content_length is not None:
            self._size = self._offset + answer.content_length

    def write(self, piece: bytes) -> None:
        with self.partial.open("ab") as file:
            file.write(piece)
        self._digest.update(piece)
        self._offset += len(piece)
        self._progress(self._offset, self._size)

    def finish(self) -> str:
        """Raises TransferError where it is not what was promised."""
        if 0 <= self._offset < self._size:
            raise _Again("the connection ended early")
        found = self._digest.hexdigest()
        if self.sha256 and found != self.sha256:
            self.is_useless = True
            raise TransferError(f"the content has sha256 {found}, expected was {self.sha256}; it was thrown away")
        self.partial.touch()  # an empty file has no byte that made it
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())
        return found


async def _accepted(answer: aiohttp.ClientResponse) -> None:
    """Raises _Again or TransferError for anything but a success."""
    if answer.status < HTTPStatus.BAD_REQUEST:
        return
    said = await answer.text(errors="replace")
    try:
        message = msgspec.json.decode(said)["error"]["message"]
    except (msgspec.DecodeError, KeyError, TypeError):
        message = said.strip()[:200] or answer.reason
    if answer.status in _AGAIN:
        raise _Again(f"{answer.status}: {message}")
    raise TransferError(f"{answer.url.path}: {message} ({answer.status})", answer.status)


async def _stored(answer: aiohttp.ClientResponse) -> Stored:
    if answer.status not in _DONE:
        raise _Again("the upload is not complete yet")
    try:
        return msgspec.json.decode(await answer.read(), type=Stored)
    except msgspec.MsgspecError as error:
        raise TransferError(f"{answer.url} is no upload of MLOC: {error}", answer.status) from error


def _silent(done: int, size: int) -> None:
    return None
