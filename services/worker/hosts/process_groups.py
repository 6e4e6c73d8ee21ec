"""Process groups of host processes: when their leader started, whether any member lives, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from mloc.services.worker.ledger import HostStarted

MARK = "MLOC_HOST_OF"  # in the environment of every host and of what it starts


def start_of(pid: int) -> str:
    """When the process started, in a form to compare; empty when there is no such process (or only its zombie)."""
    if Path("/proc/self/stat").exists():
        fields = _stat(pid)
        return fields[19] if fields and fields[0] != "Z" else ""
    return _ps("lstart=", pid)


def living_members(host: HostStarted, mark: str) -> list[int]:
    """Processes of the host's group that are ours: the leader started when the ledger says, or they carry our mark."""
    if not Path("/proc/self/stat").exists():
        return [host.pid] if start_of(host.pid) == host.started != "" else []
    members = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    living = [pid for pid in members if (fields := _stat(pid)) and fields[0] != "Z" and int(fields[2]) == host.pid]
    ours = f"{MARK}={mark}".encode()
    return living if start_of(host.pid) == host.started != "" else [pid for pid in living if ours in _environment(pid)]


def kill_group(pid: int) -> None:
    """Kill the group that `pid` leads; nothing happens where it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name: state, parent, group, …, start time at 19; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _ps(field: str, pid: int) -> str:
    return subprocess.run(["ps", "-o", field, "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
