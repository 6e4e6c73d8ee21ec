"""The real services, one process each, beside a real server: what most tests of commands and API need."""

from __future__ import annotations

import json
import os
import shutil
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

DEADLINE_SEC = 60
HEAD = "apiVersion: mloc/v1\nkind: EchoTask\nmetadata: {{name: {name}}}\nspec:\n  taskType: echo\n"


class Stack:
    """Scheduler, aggregator, worker and API over one namespace; `folder` holds task files and results."""

    def __init__(self, url: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ms", dir="/tmp"))
        self.port = free_port()
        self.environ = {
            **os.environ, "REDIS_URL": url, "MLOC_NAMESPACE": f"stack-{self.folder.name}", "ORCHESTRATOR_STATE_DIR": str(self.folder / "state"),
            "RESULTS_DIR": str(self.folder / "results"), "PORT": str(self.port), "LOG_FORMAT": "json", "HEARTBEAT_INTERVAL_SEC": "0.2",
            "HEARTBEAT_TTL_SEC": "10", "TASK_TOPICS": "echo", "WORKER_ID": "w1", "STOP_GRACE_SEC": "1",
        }  # fmt: skip
        self.services: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> None:
        for name in names:
            with (self.folder / f"{name}.out").open("ab") as output:
                command = (sys.executable, "-m", "mloc.services.command_line", name)
                self.services[name] = subprocess.Popen(command, env=self.environ, cwd=self.folder, stdout=output, stderr=output)

    def close(self) -> None:
        for service in self.services.values():
            service.terminate()
        for service in self.services.values():
            try:
                service.wait(20)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def file(self, name: str, spec: str) -> str:
        (self.folder / f"{name}.yaml").write_text(HEAD.format(name=name) + spec)
        return f"{name}.yaml"

    def start_intake(self, *arguments: str) -> subprocess.Popen[str]:
        command = (sys.executable, "-m", "mloc.services.intake.cli", *arguments)
        return subprocess.Popen(command, env=self.environ, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def intake(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        command = self.start_intake(*arguments)
        out, err = command.communicate(timeout=DEADLINE_SEC)
        assert "Traceback" not in err, err
        return command.returncode, out, err

    def http(self, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body.encode() if body else None, method=method)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_SEC) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError as error:
            return 0, str(error)

    def until(self, what: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + DEADLINE_SEC
        while not (found := what()):
            assert time.monotonic() < deadline, "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in self.folder.glob("*.out"))
            time.sleep(0.02)
        return found

    def state_of(self, id: str) -> str:
        return str(self.http("GET", f"/api/v1/tasks/{id}")[1].get("state"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
