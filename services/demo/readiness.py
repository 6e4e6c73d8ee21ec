"""Looked at before anything is started: room on the disk, a free port, the libraries that the main job needs."""

from __future__ import annotations

import contextlib
import errno
import shlex
import shutil
import socket
import sys
from pathlib import Path

from mloc.services import doctor
from mloc.services.demo.failure import DemoFailed
from mloc.services.exit_codes import MISCONFIGURED

NEEDED = ("sft", "lora_sft", "inference")
CHECKOUT = Path(__file__).resolve().parents[2]


def check_disk(folder: Path, least_bytes: int) -> None:
    """Raises DemoFailed below what the embedded server asks for, where `folder` would be made."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < least_bytes:
        raise DemoFailed(
            f"only {free / 1024**2:,.0f} MiB are free at {folder}, and the event log wants {least_bytes / 1024**2:,.0f} MiB: "
            "make room, name a folder on another disk with --dir, or set MIN_FREE_DISK lower", MISCONFIGURED,
        )  # fmt: skip


def make_folder(folder: Path) -> Path:
    """The demo's own folder, made and empty. Raises DemoFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DemoFailed(f"{folder} is not empty: name a new folder with --dir", MISCONFIGURED)
    except OSError as error:
        raise DemoFailed(f"the folder {folder} cannot be made ({error.strerror}): name another one with --dir", MISCONFIGURED) from error
    return folder.resolve()


def free_port(wanted: int | None) -> int:
    """`wanted` if it can be listened on, else one that the system chooses. Raises DemoFailed."""
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted or 0))
            probe.listen()
        except OSError as error:
            why = "in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise DemoFailed(f"port {wanted} is {why}: leave --port out, and a free one is taken", MISCONFIGURED) from error
        return int(probe.getsockname()[1])


def check_libraries() -> None:
    """Raises DemoFailed with the one command that installs what is missing."""
    found = doctor.task_types()
    if broken := [finding for finding in found if finding.status == "error"]:
        raise DemoFailed(f"{broken[0].detail}: {broken[0].remedy}", MISCONFIGURED)
    lacking = [finding for finding in found if finding.name in NEEDED and finding.status != "ok"]
    if lacking:
        missing = ", ".join(dict.fromkeys(name for finding in lacking for name in finding.detail.removeprefix("needs ").split(", ")))
        raise DemoFailed(f"the demo trains a small model, and this Python lacks {missing}. This gets it:\n  {install_command()}", MISCONFIGURED)


def install_command() -> str:
    """What installs the training extra into this Python."""
    if (CHECKOUT / "pyproject.toml").is_file():
        return f"cd {shlex.quote(str(CHECKOUT))} && {shlex.quote(sys.executable)} -m pip install -c constraints.txt -e '.[training]'"
    return f"{sys.executable} -m pip install 'mloc[training]'"
