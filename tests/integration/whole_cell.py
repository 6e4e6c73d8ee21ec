"""A whole cell as a person starts it: `mloc up` in a folder of its own, talked to over HTTP, its processes killed by their recorded pids."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mloc.services.server.record import read_record
from mloc.services.up.record import read_up_record

START_SEC = 60.0


class WholeCell:
    """`close` stops it as ctrl-C does and removes the folder; `exit_code` is then what `mloc up` ended with."""

    def __init__(self, workers: int = 1, **environ: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mc", dir="/tmp"))
        self.state = self.folder / "state"
        self.results = self.folder / "results"
        self.port = _free_port()
        inherited = {name: text for name, text in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME", "LANG")}
        self.environ = inherited | {"PORT": str(self.port), "MIN_FREE_DISK": "0", "LOG_FORMAT": "json", "STOP_GRACE_SEC": "2", **environ}
        self.exit_code: int | None = None
        command = (sys.executable, "-m", "mloc.services.command_line", "up", "--workers", str(workers))
        with (self.folder / "up.out").open("ab") as output:
            self._up = subprocess.Popen(command, env=self.environ, cwd=self.folder, stdout=output, stderr=output)
        self.until(lambda: "MLOC is up" in self.output(), START_SEC)

    def output(self) -> str:
        return (self.folder / "up.out").read_text(errors="replace")

    def until(self, what: Callable[[], Any], deadline_sec: float) -> Any:
        deadline = time.monotonic() + deadline_sec
        while not (found := what()):
            assert self._up.poll() is None, f"mloc up ended: {self.output()[-3000:]}"
            assert time.monotonic() < deadline, self.output()[-6000:]
            time.sleep(0.02)
        return found

    def stop(self) -> int:
        self._up.send_signal(signal.SIGTERM)
        self.exit_code = self._up.wait(60)
        return self.exit_code

    def close(self) -> None:
        if self._up.poll() is None:
            self._up.terminate()
            try:
                self._up.wait(60)
            except subprocess.TimeoutExpired:
                self._up.terminate()  # the second one ends everything at once
                self._up.wait(20)
        if not os.environ.get("MLOC_KEEP_CELLS"):
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- its processes ---

    def pid_of(self, name: str) -> int | None:
        """Of a service, or of the `server`; None while it is down."""
        if name == "server":
            server = read_record(self.state)
            return server.pid if server is not None else None
        up = read_up_record(self.state)
        return up.services.get(name) if up is not None else None

    def kill(self, name: str, deadline_sec: float) -> None:
        """kill -9 of what runs under this name, as soon as one that was not killed before does."""

        def killed() -> bool:
            pid = self.pid_of(name)
            if pid is None or not _runs(pid):
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
            return False

        self.until(killed, deadline_sec)

    def command(self, module: str, *arguments: str, timeout_sec: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments], env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=timeout_sec,
            check=False,
        )  # fmt: skip

    # --- its API ---

    def http(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, Any]:
        """(status, JSON); status 0 where nothing answers."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body.encode() if body else None, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError as error:
            return 0, str(error)

    def submit(self, yaml: str, key: str, deadline_sec: float) -> list[str]:
        """Ids of the tasks; tried again under the same key for as long as the control plane is away."""

        def accepted() -> list[str]:
            status, answer = self.http("POST", "/api/v1/tasks", yaml, Content_Type="text/yaml", Idempotency_Key=key)
            assert status in (0, 200, 201, 429, 500, 503), (status, answer)
            return list(answer["task_ids"]) if status in (200, 201) else []

        found: list[str] = self.until(accepted, deadline_sec)
        return found


def echo_task(name: str, more: str = "") -> str:
    return f"apiVersion: mloc/v1\nkind: EchoTask\nmetadata: {{name: {name}}}\nspec:\n  taskType: echo\n  data: {{prompts: [{name}]}}\n{more}"


def without_module(folder: Path, name: str) -> Path:
    """A folder for PYTHONPATH that hides a module from who looks whether it is installed."""
    hiding = folder / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        f"util.find_spec = lambda name, package=None: None if name == {name!r} else find(name, package)\n"
    )
    return hiding


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return _answers_signal(pid) if not Path("/proc/self").exists() else False


def _answers_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
