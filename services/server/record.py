"""Where the embedded server of a state folder is: `server.json`, written by `mloc up`, read by every other command."""

import contextlib
import fcntl
import hashlib
import os
import socket
import time
from pathlib import Path
from urllib.parse import quote

import msgspec
from msgspec import Struct

RECORD = "server.json"
LOCK = "server.lock"
LOCK_PATIENCE_SEC = 1.0
LONGEST_SOCKET_PATH = 100  # bytes; the kernels take 107 (Linux) and 103 (macOS)


class ServerRecord(Struct, frozen=True):
    """The server as it was last started. The pid counts only together with `started`, since pids come again."""

    pid: int
    started: str
    socket: str
    binary: str


class StateFolderLocked(Exception):
    """Another `mloc up` runs with this state folder."""


def find_server(state_dir: Path) -> str | None:
    """URL of the embedded server of this folder; None where none runs. Also while its `mloc up` is restarting it: clients connect anew."""
    record = read_record(state_dir)
    if record is None:
        return None
    alive = answers(Path(record.socket)) or is_locked(state_dir)
    return unix_url(Path(record.socket)) if alive else None


def unix_url(path: Path) -> str:
    return "unix://" + quote(str(path))


def socket_path(state_dir: Path) -> Path:
    """`server.sock` in the state folder, or, where that path is too long for a socket, in a short private folder named by its hash."""
    path = state_dir.resolve() / "server.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return Path("/tmp") / f"mloc-{os.getuid()}-{digest}" / "server.sock"


def read_record(state_dir: Path) -> ServerRecord | None:
    try:
        return msgspec.json.decode((state_dir / RECORD).read_bytes(), type=ServerRecord)
    except (OSError, msgspec.DecodeError):
        return None


def write_record(state_dir: Path, record: ServerRecord) -> None:
    staged = state_dir / f".{RECORD}.{os.getpid()}"
    staged.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    staged.replace(state_dir / RECORD)


def forget_record(state_dir: Path) -> None:
    (state_dir / RECORD).unlink(missing_ok=True)


def answers(path: Path) -> bool:
    """Whether something listens on this socket."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def process_start(pid: int) -> str:
    """When the kernel started this process, in the kernel's words; "" where it does not exist. A zombie does not count."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends between the open and the read
        return "" if Path("/proc/self").exists() or not _exists(pid) else "alive"
    return "" if fields[0] == "Z" else fields[19]


def lock_state_folder(state_dir: Path) -> int:
    """Take the folder for one `mloc up`; gives a file descriptor that holds it until it is closed. Raises StateFolderLocked."""
    descriptor = os.open(state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_PATIENCE_SEC  # a find_server may hold it for a moment
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise StateFolderLocked(
                    f"another `mloc up` runs with the state folder {state_dir.resolve()}: use that one (every command finds it), "
                    "stop it first, or set ORCHESTRATOR_STATE_DIR to another folder"
                ) from None
            time.sleep(0.02)
        else:
            return descriptor


def is_locked(state_dir: Path) -> bool:
    """Whether an `mloc up` holds the folder."""
    try:
        descriptor = os.open(state_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
