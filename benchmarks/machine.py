"""The machine, in words that say what matters for the figures and not whose it is."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

from mloc.services.server.binary import server_binary, server_version

LIBRARIES = ("redis", "hiredis", "msgspec", "dramatiq", "taskiq", "taskiq-redis")


def described(base: Path) -> dict[str, str]:
    """`base` is where the servers' files lie."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "server": ".".join(map(str, server_version(server_binary()))),
        "append-only file and trees of mloc-ext4": file_system_of(base),
        "other trees": file_system_of(Path("/dev/shm")),
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    }


def file_system_of(folder: Path) -> str:
    """The type of the file system that holds the folder."""
    path, best = str(folder.resolve()), ("", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, kind, *_ = line.split()
        if (path == mounted or path.startswith(mounted.rstrip("/") + "/")) and len(mounted) > len(best[0]):
            best = (mounted, kind)
    return best[1]
