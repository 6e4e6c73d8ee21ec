"""Blobs by their sha256, and uploads on their way to become one. All below RESULTS_DIR, so that a blob becomes a task's file by a link.

    .blobs/ab/<sha256>            content, once; read-only; durable before its name is there
    .uploads/<id>.json, .part     whose file an upload is, and what of it has arrived

An upload's id follows from whose file it is and its sha256, so that asking again for the same upload finds what arrived the first time.
Several processes may share a store: an upload is locked while somebody writes it, and what makes, uses or removes a name of its content
happens one at a time under the store's own lock. All here blocks; callers use threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from mloc.services.artifacts.digests import file_sha256
from mloc.services.artifacts.receiving import Receiving
from mloc.services.durable_files import copy_durably, partial_of, sync_folder, write_durably
from mloc.services.results.folders import BLOBS, UPLOADS

UNKNOWN_SIZE = -1
LOCK = ".lock"
_ID = re.compile(r"[0-9a-f]{32}")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)
_PLACE_TRIES = 5  # folders may be moved or cleared away under a file that is being placed


class StoreError(Exception):
    """What the store cannot take; the message is for a person."""


class DiskFull(StoreError):
    """No room; what had arrived of the upload was removed."""


class UploadDone(StoreError):
    """Somebody else has finished the upload, or given it up."""


class NameTaken(StoreError):
    """The file is there already, with another content."""


class Upload(Struct, frozen=True):
    """Whose file it is. `path` is where it goes, below RESULTS_DIR; `name` is what its event will say, "" for none."""

    task: str
    attempt: int
    path: str
    name: str = ""
    sha256: str = ""  # "" where the sender does not know it
    size: int = UNKNOWN_SIZE  # bytes
    by: str = ""
    is_done: bool = False

    @property
    def id(self) -> str:
        return hashlib.sha256("\0".join((self.path, self.sha256)).encode()).hexdigest()[:32]


class Blob(Struct, frozen=True):
    path: Path
    sha256: str
    size: int


class Store:
    """`spare_bytes` are left free for everybody else on that disk."""

    def __init__(self, root: Path, spare_bytes: int = 0) -> None:
        self.root = root.absolute()
        self._spare_bytes = spare_bytes

    def blob(self, sha256: str) -> Path:
        return self.root / BLOBS / sha256[:2] / sha256

    # --- uploads ---

    def begin(self, upload: Upload, *, apart: bool = False) -> str:
        """Note whose upload it will be; gives its id, one that nobody else has if it is to be apart. Raises DiskFull, OSError."""
        self.make_room(upload.size)
        id = upload.id if upload.sha256 and not apart else secrets.token_hex(16)
        with self._alone():
            known = self.upload(id)
            if known is None or (known.is_done and not self.blob(known.sha256).exists()):
                write_durably(self._note(id), [msgspec.json.encode(upload)])
        return id

    def known(self, upload: Upload) -> Blob | None:
        """The content, where the store has it already: nothing need be sent."""
        path = self.blob(upload.sha256)
        with contextlib.suppress(OSError), self._alone():
            if upload.sha256 and (size := path.stat().st_size) == upload.size:
                os.utime(path)
                return Blob(path, upload.sha256, size)
        return None

    def upload(self, id: str) -> Upload | None:
        """None where there is no such upload (any more)."""
        if not _ID.fullmatch(id):
            return None
        try:
            return msgspec.json.decode(self._note(id).read_bytes(), type=Upload)
        except (OSError, msgspec.MsgspecError):
            return None

    def arrived(self, id: str) -> int:
        """Bytes of an upload that are here."""
        try:
            return self._part(id).stat().st_size
        except FileNotFoundError:
            return 0

    def receive(self, id: str) -> Receiving:
        """Go on with an upload. Raises UploadDone, UploadBusy, OSError."""
        receiving = Receiving(self._part(id))
        upload = self.upload(id)
        if upload is None or upload.is_done:
            self._part(id).unlink(missing_ok=True)
            receiving.close()
            raise UploadDone("this upload is over")
        return receiving

    def finish(self, id: str, receiving: Receiving) -> Blob:
        """What has arrived is the whole: make it a blob. Repeating it does no harm. Raises UploadDone, OSError."""
        receiving.sync()
        part, blob = self._part(id), self.blob(receiving.sha256)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            is_there = receiving.is_at(part)
            if blob.exists():
                os.utime(blob)  # in use again
                if is_there:
                    part.unlink()
            elif is_there:
                os.utime(part)
                os.rename(part, blob)
                os.chmod(blob, 0o444)
            else:  # given up or expired meanwhile, and nobody else has brought the same
                raise UploadDone("this upload was given up")
        sync_folder(blob.parent)
        return Blob(blob, receiving.sha256, receiving.offset)

    def done(self, id: str, upload: Upload) -> None:
        """The file is in its place. The note stays for who did not hear the answer, until it expires."""
        with self._alone():
            write_durably(self._note(id), [msgspec.json.encode(upload)])
            self._part(id).unlink(missing_ok=True)

    def drop(self, id: str) -> None:
        """Forget an upload and what arrived of it."""
        with self._alone():
            self._part(id).unlink(missing_ok=True)
            self._note(id).unlink(missing_ok=True)

    # --- places ---

    def place(self, blob: Blob, path: str) -> Path:
        """Make the blob the file at `path`, below the root, durably; the same file there already is as good.

        Raises NameTaken, UploadDone where the blob expired meanwhile, OSError."""
        target = self.root / path
        for left in reversed(range(_PLACE_TRIES)):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._place(blob, target)
                for folder in (target.parent, *target.parent.relative_to(self.root).parents):
                    sync_folder(self.root / folder)
                return target
            except FileNotFoundError as error:
                if not blob.path.exists():
                    raise UploadDone("its content was not used in time and has expired") from error
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _place(self, blob: Blob, target: Path) -> None:
        try:
            with self._alone():
                os.link(blob.path, target)
        except FileExistsError:
            if not is_file_of(target, blob):
                raise NameTaken(f"{target.relative_to(self.root)} is there already, with another content") from None
            os.utime(target)  # in use again
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._copy(blob, target)

    def _copy(self, blob: Blob, target: Path) -> None:
        """Where the file system has no links. Raises NameTaken, OSError."""
        partial = partial_of(target)
        try:
            copy_durably(blob.path, partial)
            with self._alone():
                if not target.exists():
                    os.rename(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        if not is_file_of(target, blob):
            raise NameTaken(f"{target.relative_to(self.root)} is there already, with another content")

    def make_room(self, size: int) -> None:
        """Raises DiskFull where so much more does not fit."""
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free - self._spare_bytes
        if max(size, 0) > free:
            raise DiskFull(f"{max(size, 0):,} bytes do not fit: {max(0, free):,} bytes are free for uploads at {self.root}")

    # --- what nobody comes back for ---

    def expire(self, older_than_sec: float, now: float | None = None) -> tuple[int, int]:
        """Remove uploads and blobs without a place that nobody touched for so long; gives (number, bytes freed)."""
        before = (time.time() if now is None else now) - older_than_sec
        number = freed = 0
        for file in self._files():
            with contextlib.suppress(FileNotFoundError), self._alone():
                status = file.stat()
                if self._touched(file) >= before or (file.parent.parent.name == BLOBS and status.st_nlink > 1):
                    continue
                file.unlink()
                number, freed = number + 1, freed + (status.st_size if status.st_nlink == 1 else 0)
        return number, freed

    def _touched(self, file: Path) -> float:
        """A note is as young as what arrives of its upload."""
        part = file.with_suffix(".part")
        return max(file.stat().st_mtime, part.stat().st_mtime if file.suffix == ".json" and part.exists() else 0)

    def _files(self) -> Iterator[Path]:
        """Parts before notes: an upload without its note is not found, one without its part begins anew."""
        yield from sorted((self.root / UPLOADS).glob("*"), reverse=True)
        yield from (self.root / BLOBS).glob("??/*")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else, here or in another process, makes, uses or removes a name of some content meanwhile. For moments only. Raises OSError."""
        lock = self.root / BLOBS / LOCK
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _note(self, id: str) -> Path:
        return self.root / UPLOADS / f"{id}.json"

    def _part(self, id: str) -> Path:
        return self.root / UPLOADS / f"{id}.part"


def is_file_of(path: Path, blob: Blob) -> bool:
    """Whether a file has the blob's content."""
    status = path.stat()
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(status, blob.path.stat()):
            return True
    if status.st_size != blob.size:
        return False
    return file_sha256(path) == blob.sha256


def is_full(error: OSError) -> bool:
    return error.errno in _FULL
