"""What others use to talk to the API, on real processes: a client that is generated from openapi.json, and the docs' lines of curl."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from tests.integration.service_stack import Stack
from tests.services.intake.api_document import document

DOCS = Path(__file__).parents[2]
PAGES = ("README.md", "docs/api.md")
TASK = "apiVersion: mloc/v1\nkind: EchoTask\nmetadata: {name: curled}\nspec:\n  taskType: echo\n  data: {prompts: [a]}\n"
_CURL = re.compile(r"^    (curl .*?)(?:\s+#.*)?$", re.MULTILINE)


@pytest.fixture
def generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package that openapi-python-client writes."""
    (tmp_path / "openapi.json").write_bytes(msgspec.json.encode(document()))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json", "--output-path", "mloc_client", "--meta", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Could not find reference" not in done.stdout, done.stdout
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("mloc_client")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mloc_client"]:
        del sys.modules[name]


def test_a_generated_client_submits_lists_shows_and_fetches_the_result(stack: Stack, generated: ModuleType) -> None:
    def called(path: str, **arguments: object) -> object:
        return importlib.import_module(f"mloc_client.api.{path}").sync(client=client, **arguments)

    client = generated.Client(base_url=f"http://127.0.0.1:{stack.port}", raise_on_unexpected_status=True)
    accepted = called("tasks.post_tasks", body=TASK.replace("curled", "generated"), idempotency_key="generated-1")
    assert accepted.ok
    assert accepted.tasks[0].name == "generated"
    stack.until(lambda: called("tasks.show_task", id=accepted.task_id).status == "DONE")
    assert accepted.task_id in [task.task_id for task in called("tasks.list_tasks", status="DONE").tasks]
    assert called("results.show_result", id=accepted.task_id).to_dict()["items"][0]["output"]
    assert called("workers.list_workers").workers[0].worker_id == "w1"
    refused = called("tasks.cancel_task", id=accepted.task_id, body=importlib.import_module("mloc_client.models").Cancellation())
    assert (refused.ok, refused.error.code) == (False, "wrong_state")


def curl_lines() -> list[str]:
    return [line for page in PAGES for line in _CURL.findall((DOCS / page).read_text())]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on the PATH")
@pytest.mark.parametrize("line", [*curl_lines(), "curl -H 'Content-Type: application/json' --data-binary @task.yaml http://127.0.0.1:8000/api/v1/tasks"])
def test_a_line_of_curl_in_the_docs_does_what_it_says(stack: Stack, line: str) -> None:
    """As it is written but for the port and the ids; a stream without an end is left after a second."""
    for name in re.findall(r"(?:@|-T )(\S+)", line):
        if not (stack.folder / name).exists():
            (stack.folder / name).write_text(TASK)
    id = stack.http("POST", "/api/v1/tasks", TASK)[1]["task_id"]
    if "/cancel" in line:  # it must not have ended: what waits for a type that nobody runs does not
        id = stack.http("POST", "/api/v1/tasks", TASK.replace("taskType: echo", "taskType: nobody_runs_this"))[1]["task_id"]
    else:
        stack.until(lambda: stack.http("GET", f"/api/v1/results/{id}")[0] == 200)
    event = stack.http("GET", f"/api/v1/tasks/{id}/events")[1]["events"][0]["id"]
    literal = re.sub(r"[0-9]{13}-0", event, line.replace(":8000", f":{stack.port}").replace("<id>", id))
    stream = " -N" in line and "follow=1" not in line
    options = " --max-time 1" if stream else " --max-time 30"
    command = literal.replace("curl", "curl -sS --fail-with-body" + options, 1)
    known = {**os.environ, "sha": hashlib.sha256(TASK.encode()).hexdigest()}
    done = subprocess.run(["bash", "-c", command], cwd=stack.folder, env=known, capture_output=True, text=True, timeout=60)
    assert done.returncode in ((0, 28) if stream else (0,)), (literal, done.stdout, done.stderr)
    if " -N" not in line and "/files/" not in line:
        assert msgspec.json.decode(done.stdout)["ok"], done.stdout
