"""Uploads as the event loop sees them: bytes in, in constant memory, at the offset that is due; a file in its place at the end.

Who comes back for an upload while its first connection still hangs takes it over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from msgspec import Struct
from msgspec.structs import replace

from mloc.services.artifacts.receiving import Receiving, UploadBusy
from mloc.services.artifacts.store import Blob, DiskFull, Store, StoreError, Upload, is_full

WRITE_BYTES = 1 << 20
IDLE_SEC = 60.0  # a sender that says nothing for so long has gone
TAKE_OVER_SEC = 10.0


class WrongOffset(StoreError):
    """The sender goes on from another byte than the one that is due, `offset`."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the upload goes on at byte {offset:,}")
        self.offset = offset


class WrongContent(StoreError):
    """What came is not what was announced; it was thrown away."""


class TooLarge(StoreError):
    """More than an upload may have; it was thrown away."""


class Progress(Struct, frozen=True):
    """`blob` is there when all has come and was placed."""

    offset: int
    blob: Blob | None = None


class Uploading:
    """All uploads of one process into one store."""

    def __init__(self, store: Store, max_bytes: int) -> None:
        self.store = store
        self.max_bytes = max_bytes
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._writers: dict[str, tuple[Callable[[], object], asyncio.Event]] = {}

    def turn(self, task: str) -> asyncio.Lock:
        """Of those who tell the log about a task's files: one after the other, so that none is told twice."""
        lock = self._turns.get(task)
        if lock is None:
            lock = self._turns[task] = asyncio.Lock()
        return lock

    async def receive_whole(self, upload: Upload, chunks: AsyncIterator[bytes], give_up: Callable[[], object]) -> Progress:
        """All of a content at once; several senders of the same do not disturb each other. If it breaks off, what came is kept where its
        sha256 was announced: then a client can find it again. Raises as `receive`."""
        known = await asyncio.to_thread(self.store.upload, upload.id)
        is_found_again = bool(upload.sha256) and upload.id not in self._writers and not (known and known.is_done)
        id = await asyncio.to_thread(self.store.begin, upload, apart=not is_found_again)
        try:
            return await self.receive(id, upload, chunks, offset=None, is_last=True, give_up=give_up)
        except BaseException:
            if not is_found_again:
                self.store.drop(id)
            raise

    async def receive(
        self, id: str, upload: Upload, chunks: AsyncIterator[bytes], *, offset: int | None, is_last: bool, give_up: Callable[[], object]
    ) -> Progress:
        """Append what comes from byte `offset` on; None begins anew. `give_up` is called when somebody else goes on with the upload.

        Raises WrongOffset, WrongContent, TooLarge, DiskFull, NameTaken, UploadDone, UploadBusy, OSError, and what reading `chunks` raises: then
        what came until there is kept."""
        async with self._writing(id, give_up) as receiving:
            if offset is None:
                await asyncio.to_thread(receiving.restart)
            elif receiving.offset != offset:
                raise WrongOffset(receiving.offset)
            try:
                await self._append(receiving, upload, chunks)
                if not is_last:
                    return Progress(receiving.offset)
                return await asyncio.to_thread(self._finish, id, upload, receiving)
            except (WrongContent, TooLarge):
                await asyncio.to_thread(self.store.drop, id)
                raise
            except OSError as error:
                if not is_full(error):
                    raise
                await asyncio.to_thread(self.store.drop, id)  # others need the room more
                raise DiskFull(f"the disk is full: nothing is kept of the {receiving.offset:,} bytes that came") from error

    def place(self, id: str, upload: Upload, blob: Blob) -> Progress:
        """The store has the content: make it the task's file. Blocks. Raises NameTaken, OSError."""
        self.store.place(blob, upload.path)
        self.store.done(id, replace(upload, sha256=blob.sha256, size=blob.size, is_done=True))
        return Progress(blob.size, blob)

    def _finish(self, id: str, upload: Upload, receiving: Receiving) -> Progress:
        if upload.size >= 0 and receiving.offset != upload.size:
            raise WrongContent(f"{receiving.offset:,} bytes came, {upload.size:,} were announced; nothing was stored")
        if upload.sha256 and receiving.sha256 != upload.sha256:
            raise WrongContent(f"the content has sha256 {receiving.sha256}, expected was {upload.sha256}; nothing was stored")
        return self.place(id, upload, self.store.finish(id, receiving))

    async def _append(self, receiving: Receiving, upload: Upload, chunks: AsyncIterator[bytes]) -> None:
        limit = upload.size if upload.size >= 0 else self.max_bytes
        waiting = bytearray()
        try:
            while (chunk := await asyncio.wait_for(anext(chunks, b""), IDLE_SEC)) or waiting:
                waiting += chunk
                if receiving.offset + len(waiting) > limit:
                    raise TooLarge(f"more than {limit:,} bytes came; nothing was stored")
                if len(waiting) >= WRITE_BYTES or not chunk:
                    piece, waiting = waiting, bytearray()
                    await asyncio.to_thread(receiving.write, piece)
        finally:
            if waiting and receiving.offset + len(waiting) <= limit:  # it broke off: keep what came
                await asyncio.to_thread(receiving.write, waiting)

    @asynccontextmanager
    async def _writing(self, id: str, give_up: Callable[[], object]) -> AsyncIterator[Receiving]:
        if (other := self._writers.get(id)) is not None:
            other[0]()
            try:
                await asyncio.wait_for(other[1].wait(), TAKE_OVER_SEC)
            except TimeoutError as error:
                raise UploadBusy("another connection still writes this upload") from error
        if id in self._writers:
            raise UploadBusy("another connection writes this upload")
        over = asyncio.Event()
        self._writers[id] = (give_up, over)
        try:
            receiving = await self._opened(id)
            try:
                yield receiving
            finally:
                await asyncio.to_thread(receiving.close)
        finally:
            del self._writers[id]
            over.set()

    async def _opened(self, id: str) -> Receiving:
        """Also where the sender goes away meanwhile, nothing stays open."""
        opening = asyncio.ensure_future(asyncio.to_thread(self.store.receive, id))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda opened: None if opened.cancelled() or opened.exception() else opened.result().close())
            raise
