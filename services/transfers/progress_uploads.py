"""What a running attempt has so far, uploaded while it runs: rows as they are recorded, checkpoints as they are saved.

Only for workers that do not share the results folder. An event is put when its bytes are at the API. Nothing waits for it: rows that come
meanwhile go together in the next piece, and of checkpoints the newest goes next. In the attempt's folder at the API:

    rows/attempt-<n>.<offset>.jsonl               pieces of the attempt's part, to be joined in order
    checkpoints/<name>/…, <name>.files.json       the list comes last: without it the checkpoint is not complete
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog
from msgspec import Struct

from mloc.core.host_frames import CheckpointDone, RowsDone, RunTask
from mloc.services.clock import Clock
from mloc.services.results.manifest import File, files_in
from mloc.services.transfers.attempt_files import AttemptFiles
from mloc.services.transfers.remote_files import Say
from mloc.services.transfers.transfer_errors import TransferError

ROWS, CHECKPOINTS = "rows", "checkpoints"
LIST_SUFFIX = ".files.json"
MOST_PIECE_BYTES = 64 << 20

Done = TypeVar("Done")
Put = Callable[[RowsDone | CheckpointDone], None]

_log = structlog.get_logger("worker")


class Complete(Struct, frozen=True):
    """A checkpoint's files."""

    files: list[File]


def piece_name(part: str, offset: int) -> str:
    """`attempt-1.jsonl` from byte 4096 on → `attempt-1.000000000004096.jsonl`."""
    stem = part.removesuffix(".jsonl")
    return f"{stem}.{offset:015d}.jsonl"


class ProgressUploads:
    """Of one attempt. `put` takes the reports whose bytes have arrived."""

    def __init__(self, frame: RunTask, files: AttemptFiles, say: Say, put: Put, clock: Clock) -> None:
        self._frame = frame
        self._files = files
        self._say = say
        self._put = put
        self._clock = clock
        self._part = Path(frame.rows_folder) / f"attempt-{frame.attempt}.jsonl"
        self._sent_bytes = 0
        self._rows_waiting = 0  # reported by the host, not at the API yet
        self._checkpoint: tuple[CheckpointDone, Path] | None = None
        self._work: asyncio.Task[None] | None = None
        self._has_more = False
        self._own = Path(frame.rows_folder).parent / f"{frame.attempt}.uploading"

    @property
    def is_idle(self) -> bool:
        return self._work is None or self._work.done()

    def rows(self, frame: RowsDone) -> None:
        self._rows_waiting += frame.rows
        self._go_on()

    def checkpoint(self, frame: CheckpointDone) -> None:
        """Its trainer may delete it while it is being sent, so names of our own are given to its files at once."""
        kept = self._own / Path(frame.path).name
        try:
            shutil.copytree(frame.path, kept, copy_function=_link, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            _log.warning("a checkpoint is not uploaded", path=frame.path, reason=str(error))
            return
        if self._checkpoint is not None:
            shutil.rmtree(self._checkpoint[1], ignore_errors=True)
        self._checkpoint = (frame, kept)
        self._go_on()

    async def settle(self, seconds: float) -> None:
        """Bring what there is to the API, also rows that the host had no time to tell of, but do not wait for ever."""
        if self._part.is_file() and self._part.stat().st_size > self._sent_bytes:
            self._go_on()
        if self._work is None:
            return
        waiting = asyncio.ensure_future(self._clock.sleep(seconds))
        await asyncio.wait([self._work, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    def close(self) -> None:
        """The attempt is over."""
        if self._work is not None:
            self._work.cancel()
        shutil.rmtree(self._own, ignore_errors=True)

    async def end(self) -> None:
        """The result has all that there was: nothing more is sent, and nothing is written after this."""
        self.close()
        if self._work is not None:
            await asyncio.wait([self._work])
        shutil.rmtree(self._own, ignore_errors=True)

    # --- private ---

    def _go_on(self) -> None:
        self._has_more = True
        if self.is_idle:
            self._work = asyncio.ensure_future(self._upload_all())

    async def _upload_all(self) -> None:
        try:
            while self._has_more:  # also what came while the last look was under way
                self._has_more = False
                while await self._send_rows() or await self._send_checkpoint():
                    pass
        except (TransferError, OSError) as error:  # the attempt goes on; a retry would do more again
            self._say(f"what there is so far could not be uploaded: {error}")

    async def _send_rows(self) -> bool:
        offset, rows = self._sent_bytes, self._rows_waiting
        piece = await _in_thread(lambda: _lines_from(self._part, offset))
        if not piece:
            return False
        name = piece_name(self._part.name, offset)
        held = self._own / name
        sha256 = await _in_thread(lambda: _write(held, piece))
        try:
            await self._files.put(self._frame.task, self._frame.attempt, f"{ROWS}/{name}", held, self._say)
        finally:
            held.unlink(missing_ok=True)
        self._sent_bytes += len(piece)
        self._rows_waiting -= rows
        self._put(RowsDone(self._frame.task, self._frame.attempt, name, rows, sha256))
        return True

    async def _send_checkpoint(self) -> bool:
        if self._checkpoint is None:
            return False
        (frame, kept), self._checkpoint = self._checkpoint, None
        try:
            complete = Complete(await _in_thread(lambda: files_in(kept)))
            folder = f"{CHECKPOINTS}/{kept.name}"
            await self._files.put_all(frame.task, frame.attempt, [(f"{folder}/{file.path}", kept / file.path) for file in complete.files], self._say)
            listing = self._own / f"{kept.name}{LIST_SUFFIX}"
            await _in_thread(lambda: _write(listing, msgspec.json.encode(complete)))
            await self._files.put(frame.task, frame.attempt, f"{folder}{LIST_SUFFIX}", listing, self._say)
        finally:
            shutil.rmtree(kept, ignore_errors=True)
        self._put(frame)
        return True


async def _in_thread(work: Callable[[], Done]) -> Done:
    """Also where the upload is cancelled meanwhile, the thread is through with the files before this ends."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


def _lines_from(part: Path, offset: int) -> bytes:
    """Whole lines from a byte on, not too many at a time."""
    with contextlib.suppress(FileNotFoundError), part.open("rb") as file:
        file.seek(offset)
        piece = file.read(MOST_PIECE_BYTES)
        return piece[: piece.rfind(b"\n") + 1]
    return b""


def _write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
