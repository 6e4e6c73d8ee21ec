"""A real server for tests: started, killed and started again, on a unix socket in a short folder."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from mloc.services.server.binary import server_binary

DEADLINE_SEC = 20


class LogServer:
    """One server with a folder of its own; `close` ends it and removes the folder."""

    def __init__(self, binary: Path | None = None, durability: str = "everysec") -> None:
        self._binary = binary or server_binary()
        self._durability = durability
        self.folder = Path(tempfile.mkdtemp(prefix="ml", dir="/tmp"))
        self.url = f"unix://{self.folder}/s"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        options = {
            "port": "0", "unixsocket": f"{self.folder}/s", "dir": str(self.folder), "save": "",
            "appendonly": "yes", "appendfsync": self._durability, "aof-load-truncated": "yes", "maxmemory-policy": "noeviction",
        }  # fmt: skip
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with (self.folder / "log").open("ab") as log:
            self._child = subprocess.Popen([self._binary, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + DEADLINE_SEC
        while wait and not self._answers():
            assert self._child.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(0.002)

    def kill(self) -> None:
        """As kill -9 does it: what was not written is gone."""
        self._signal(signal.SIGKILL)
        assert self._child is not None
        self._child.wait(DEADLINE_SEC)

    def restart(self) -> None:
        self.kill()
        self.start()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def keep_disk(self) -> Path:
        """A copy of what is on disk now, for `restore_disk`."""
        kept = self.folder / "kept"
        shutil.copytree(self.folder / "appendonlydir", kept)
        return kept

    def restore_disk(self, kept: Path) -> None:
        """While the server is down: an older disk comes back."""
        shutil.rmtree(self.folder / "appendonlydir")
        shutil.copytree(kept, self.folder / "appendonlydir")

    def close(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self.resume()
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(f"{self.folder}/s")
                client.settimeout(DEADLINE_SEC)
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith(b"+PONG")
            except OSError:
                return False
