"""The ledger as a file in the worker's own folder, held by a lock for as long as the worker lives."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import socket
from pathlib import Path

from mloc.services.worker.ledger import Ledger, LedgerError


class LedgerFile:
    """`ledger.jsonl` in `folder`. Raises LedgerError where another worker holds it, or the folder cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file = self._open()
        except BlockingIOError as error:
            raise LedgerError(
                f"another worker runs with the folder {folder}: stop it, or give this one a name (WORKER_ID) or a folder (WORKER_DIR) of its own"
            ) from error
        except OSError as error:
            raise LedgerError(f"the worker's folder {folder} cannot be written ({error.strerror}): choose another with WORKER_DIR") from error
        self._size = 0

    @property
    def size(self) -> int:
        return self._size

    def load(self) -> bytes:
        return self._path.read_bytes()

    async def append(self, lines: bytes, *, sync: bool) -> None:
        written = 0
        while written < len(lines):
            written += os.write(self._file, lines[written:])
        self._size += len(lines)
        if sync:
            await asyncio.to_thread(os.fsync, self._file)

    async def rewrite(self, content: bytes) -> None:
        """Without an await, so that no line is appended meanwhile."""
        fresh = self._path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        opened = self._open()
        os.dup2(opened, self._file, inheritable=False)  # the same number, because an fsync in its thread may still use it
        os.close(opened)
        self._size = 0

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lock)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


async def open_ledger(worker_folder: Path, worker_id: str | None) -> tuple[Ledger, LedgerFile]:
    """The ledger of the worker `worker_id`, or of the one whose name was made for this folder the first time. Raises LedgerError."""
    name = worker_id or _name_of(worker_folder)
    file = LedgerFile(worker_folder / name)
    ledger = Ledger(file)
    try:
        if not ledger.nonce:
            await ledger.name(name, secrets.token_hex(16))
        await ledger.tidy()
    except OSError as error:
        raise LedgerError(f"the worker's ledger in {worker_folder / name} cannot be written: {error.strerror}") from error
    return ledger, file


def _name_of(worker_folder: Path) -> str:
    """The name kept in the folder; made from the machine's name when there is none. Two first starts at once agree on one."""
    path = worker_folder / "name"
    try:
        worker_folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            host = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname().split(".")[0].lower()).strip("-")
            fresh = path.with_name(f"name.{os.getpid()}")
            fresh.write_text(f"{host or 'worker'}-{secrets.token_hex(3)}\n")
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise LedgerError(f"the worker's folder {worker_folder} cannot be written ({error.strerror}): choose another with WORKER_DIR") from error
