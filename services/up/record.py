"""What runs under an `mloc up`, for commands in the same state folder: `up.json`, written anew when a child is started."""

import os
from pathlib import Path

import msgspec
from msgspec import Struct

from mloc.services.server.record import process_start

RECORD = "up.json"


class UpRecord(Struct, frozen=True):
    """`services` is name → pid of what runs now; a pid counts while `started` is still the start of the `up` process."""

    pid: int
    started: str
    event_log: str
    api: str
    results: str
    services: dict[str, int] = {}


def read_up_record(state_dir: Path) -> UpRecord | None:
    """None where no `mloc up` runs in this folder."""
    try:
        record = msgspec.json.decode((state_dir / RECORD).read_bytes(), type=UpRecord)
    except (OSError, msgspec.DecodeError):
        return None
    return record if process_start(record.pid) == record.started else None


def write_up_record(state_dir: Path, record: UpRecord) -> None:
    staged = state_dir / f".{RECORD}.{os.getpid()}"
    staged.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    staged.replace(state_dir / RECORD)


def forget_up_record(state_dir: Path) -> None:
    (state_dir / RECORD).unlink(missing_ok=True)
