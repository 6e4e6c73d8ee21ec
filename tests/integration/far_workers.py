"""Workers as on machines of their own: each with a results folder that nobody else sees, and the API's address."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from mloc.services.server.record import find_server
from tests.integration.whole_cell import WholeCell

DEADLINE_SEC = 90


class FarWorkers:
    """Worker processes of the test's own beside a cell: nobody starts one again that was killed. A worker's tag is its name."""

    def __init__(self, cell: WholeCell, *names: str, **environ: str) -> None:
        self.cell = cell
        self._of: dict[str, subprocess.Popen[bytes]] = {}
        for name in names:
            self.start(name, **environ)
        cell.until(lambda: set(names) <= {worker["worker_id"] for worker in self._workers()}, DEADLINE_SEC)

    def start(self, name: str, **environ: str) -> None:
        url = find_server(self.cell.state)
        assert url is not None
        settings = {
            **self.cell.environ, "REDIS_URL": url, "WORKER_ID": name, "WORKER_TAGS": f"far,{name}", "WORKER_DIR": str(self.cell.folder / name),
            "RESULTS_DIR": str(self.results(name)), "HEARTBEAT_INTERVAL_SEC": "0.3", "HEARTBEAT_TTL_SEC": "2",
            "ORCHESTRATOR_BASE_URL": f"http://127.0.0.1:{self.cell.port}", **environ,
        }  # fmt: skip
        with (self.cell.folder / f"{name}.out").open("ab") as output:
            command = (sys.executable, "-m", "mloc.services.command_line", "worker")
            self._of[name] = subprocess.Popen(command, env=settings, cwd=self.cell.folder, stdout=output, stderr=output)

    def results(self, name: str) -> Path:
        return self.cell.folder / f"{name}-results"

    def pid_of(self, name: str) -> int:
        return self._of[name].pid

    def output(self, name: str) -> str:
        return (self.cell.folder / f"{name}.out").read_text(errors="replace")

    def kill(self, name: str) -> None:
        self._of[name].kill()
        self._of[name].wait()

    def terminate(self, name: str) -> None:
        """Ask it to leave, and wait until it has."""
        self._of[name].terminate()
        self._of[name].wait(DEADLINE_SEC)

    def close(self) -> None:
        for process in self._of.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in self._of.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    # --- tasks ---

    def submit(self, yaml: str, key: str) -> list[str]:
        return self.cell.submit(yaml, key, DEADLINE_SEC)

    def task(self, id: str) -> dict[str, Any]:
        """Empty while the API is away."""
        status, answer = self.cell.http("GET", f"/api/v1/tasks/{id}")
        return dict(answer) if status == 200 else {}

    def until_ended(self, id: str, deadline_sec: float = DEADLINE_SEC) -> dict[str, Any]:
        """The task once it is published or left to a person."""

        def ended() -> dict[str, Any] | None:
            task = self.task(id)
            return task if task.get("state") in ("published", "dead_lettered") else None

        found: dict[str, Any] = self.cell.until(ended, deadline_sec)
        return found

    def events(self, id: str, type_: str) -> list[dict[str, Any]]:
        """None while the API is away."""
        status, answer = self.cell.http("GET", f"/api/v1/tasks/{id}/events?limit=500")
        return [event for event in answer["events"] if event["type"] == type_] if status == 200 else []

    def _workers(self) -> list[dict[str, Any]]:
        status, answer = self.cell.http("GET", "/api/v1/workers")
        return list(answer["workers"]) if status == 200 else []
