"""One upload while its bytes arrive: appended, hashed, synced every so often, and held by one writer at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from pathlib import Path

SYNC_BYTES = 32 << 20  # at most so much is lost with the machine
LOCK_SEC = 2.0
_READ_BYTES = 1 << 20


class UploadBusy(Exception):
    """Somebody else writes this upload."""


class Receiving:
    """What has arrived before is hashed again when it is opened. Raises UploadBusy, OSError. Close it in any case."""

    def __init__(self, part: Path) -> None:
        part.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock()
            if not self.is_at(part):
                raise BlockingIOError("it has just become a blob")
            self._digest, self.offset = hashlib.sha256(), 0
            while piece := os.read(self._descriptor, _READ_BYTES):
                self._digest.update(piece)
                self.offset += len(piece)
        except BaseException as error:
            os.close(self._descriptor)
            if isinstance(error, BlockingIOError):
                raise UploadBusy(f"{part.name} is being written") from error
            raise
        self._unsynced = 0

    def is_at(self, part: Path) -> bool:
        """Whether the file that is written still has this name."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), part.stat())
        except FileNotFoundError:
            return False

    def _lock(self) -> None:
        """The one before may be about to close it. Raises BlockingIOError where that takes longer."""
        patience = time.monotonic() + LOCK_SEC
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > patience:
                    raise
            time.sleep(0.01)

    @property
    def sha256(self) -> str:
        """Of all that has arrived, hex."""
        return self._digest.hexdigest()

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Raises OSError; what was written before stays."""
        rest = memoryview(piece)
        while rest:
            written = os.write(self._descriptor, rest)
            self._digest.update(rest[:written])
            self.offset += written
            self._unsynced += written
            rest = rest[written:]
        if self._unsynced >= SYNC_BYTES:
            self.sync()

    def restart(self) -> None:
        """What arrived before does not count."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._digest, self.offset = hashlib.sha256(), 0

    def sync(self) -> None:
        os.fdatasync(self._descriptor)
        self._unsynced = 0

    def close(self) -> None:
        """What has arrived is durable for who goes on with it."""
        try:
            if self._unsynced:
                self.sync()
        finally:
            os.close(self._descriptor)
