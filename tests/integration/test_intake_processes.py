"""Commands and API as real processes beside the real services: submitting, waiting, cancelling, interrupting, restarting."""

from __future__ import annotations

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.log_server import LogServer

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


@pytest.fixture(scope="module")
def stack(valkey_server: LogServer) -> Iterator[Stack]:
    one = Stack(valkey_server.url)
    one.start("scheduler", "aggregator", "worker", "intake-api")
    try:
        one.until(lambda: one.http("GET", "/readyz")[0] == 200)
        one.until(lambda: one.http("GET", "/workers")[1]["total"])
        yield one
    finally:
        one.close()


def test_waiting_for_a_pipeline_ends_when_its_result_is_on_disk(stack: Stack) -> None:
    spec = "  data: {prompts: [a, b]}\n  stages: [{name: one}, {name: two, spec: {data: {prompts: ['${one.result.items[1].output}']}}}]\n"
    code, out, err = stack.intake("submit", stack.file("chain", spec), "--wait", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["ok"], answer["state"]) == (True, "published")
    two = answer["tasks"][1]["task_id"]
    assert json.loads((stack.folder / "results" / two / "responses.json").read_text())["items"][0]["output"] == "b"
    assert stack.http("GET", f"/api/v1/results/{two}")[1]["items"][0]["output"] == "b"


def test_a_task_that_fails_ends_the_waiting_with_its_error_and_code_1(stack: Stack) -> None:
    code, _, err = stack.intake("submit", stack.file("broken", "  data: {prompts: [a]}\n  echo: {fail: no good, retryable: false}\n"), "--wait")
    assert code == 1
    assert "no good" in err
    assert "mloc-intake retry broken-" in err


def test_interrupting_the_wait_leaves_the_task_running(stack: Stack) -> None:
    command = stack.start_intake("submit", stack.file("slow", "  data: {prompts: [a]}\n  echo: {sleep_sec: 30}\n"), "--wait")
    assert command.stdout is not None
    id = command.stdout.readline().split()[1]
    stack.until(lambda: stack.state_of(id) == "running")
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=DEADLINE_SEC)
    assert command.returncode == 130
    assert f"mloc-intake show {id}" in err
    assert "Traceback" not in err
    assert stack.state_of(id) == "running"

    assert stack.intake("cancel", id)[0] == 0
    stack.until(lambda: stack.state_of(id) == "cancelled")
    code, _, err = stack.intake("result", id)
    assert (code, "cancelled" in err) == (1, True)


def test_following_prints_the_log_lines_of_the_task(stack: Stack) -> None:
    code, _, err = stack.intake("submit", stack.file("talks", "  data: {prompts: [a]}\n  echo: {sleep_sec: 0.3}\n"), "--follow")
    assert code == 0
    assert "talks | " in err


def test_the_api_takes_a_port_in_use_for_what_it_is(stack: Stack) -> None:
    second = subprocess.run(
        (sys.executable, "-m", "mloc.services.command_line", "intake-api"), env=stack.environ, cwd=stack.folder, capture_output=True, text=True,
        timeout=DEADLINE_SEC,
    )  # fmt: skip
    assert second.returncode == 78
    assert f"port {stack.port}" in second.stderr
    assert "set PORT" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_killed_api_loses_nothing_and_a_stopped_one_ends_cleanly(stack: Stack) -> None:
    text = HEAD.format(name="kept") + "  data: {prompts: [a]}\n"
    status, answer = stack.http("POST", "/api/v1/tasks", text)
    assert status == 201
    stack.services["intake-api"].kill()
    stack.services["intake-api"].wait(DEADLINE_SEC)
    stack.start("intake-api")
    stack.until(lambda: stack.http("GET", "/readyz")[0] == 200)
    stack.until(lambda: stack.state_of(answer["task_id"]) == "published")
    stack.services["intake-api"].terminate()
    assert stack.services["intake-api"].wait(DEADLINE_SEC) == 0
    stack.start("intake-api")
    stack.until(lambda: stack.http("GET", "/readyz")[0] == 200)
