"""One trial's world: a new folder, a server of its own with nothing in it, and the processes that the contestant starts; all gone in the end.

Every contestant gets the same server program with the same configuration, which is the one that `mloc up` writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mloc.services.parent_death import die_with_parent
from mloc.services.server.embedded_server import EmbeddedServer

ROOT = Path(__file__).resolve().parent.parent
END_SEC = 5.0


class World:
    """`durability` is `fast` (the log is synced each second) or `always`. Folders are left for the caller of the run to remove."""

    def __init__(self, base: Path, durability: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="trial-", dir=base))
        self._server = EmbeddedServer(self.folder / "state", durability, min_free_disk=0)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.url = ""

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    async def open(self) -> None:
        self.url = await self._server.start()

    def launch(self, name: str, command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        """Start a process of this name in a group of its own; what it prints goes into a file of the trial's folder."""
        with (self.folder / f"{name}.out").open("ab") as output:
            self._running[name] = subprocess.Popen(
                [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0,
                preexec_fn=die_with_parent(signal.SIGKILL), env={**os.environ, "PYTHONPATH": _python_path(), **(environ or {})},
            )  # fmt: skip

    def roots(self) -> dict[str, int]:
        """The processes by name, the server included."""
        return {"server": self._server.pid, **{name: process.pid for name, process in self._running.items()}}

    def kill(self, name: str) -> None:
        """kill -9 of the process and its group."""
        process = self._running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def printed(self, name: str) -> str:
        return (self.folder / f"{name}.out").read_text(errors="replace")[-2000:]

    def check(self) -> None:
        """Raises RuntimeError where a process has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{self.printed(name)}")

    async def close(self) -> None:
        for process in self._running.values():
            process.terminate()
        deadline = asyncio.get_running_loop().time() + END_SEC
        for process in self._running.values():
            while process.poll() is None and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.01)
            with contextlib.suppress(ProcessLookupError):  # what is left of its group, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        await self._server.stop()


def _python_path() -> str:
    """The benchmarks' own folder (worker programs import from it) before what the caller has."""
    return os.pathsep.join(filter(None, [str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]))
