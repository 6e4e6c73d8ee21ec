"""The acceptance cases beside the templates (templates/cases/NAME.yaml): how each is made small, and what must come of it.

    seconds    the longest it may take
    models     true: it needs torch
    waits_for  what it needs that is not there yet; then it is only read
    set        values put over the template, as --set takes them; {api} and {sink} stand for the cell's API and for a server of the test,
               {agent_model} for a model that template agent_tiny made, {mcp_server} and {python} for what runs a server of tools
    expect     states: task or stage → state; attempts; results: task or stage → checks of its result; posted: paths that {sink} got
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from whole_cell import WholeCell

from mloc.core.language.reading import read_tasks
from mloc.core.language.value_paths import look_up, parse_path
from mloc.executors import registry
from mloc.services.intake.task_file import TEMPLATES, templates

CASES = TEMPLATES / "cases"
MCP_SERVER = Path(__file__).parents[1] / "executors" / "agents" / "mcp_server.py"
ENDED = ("published", "dead_lettered", "cancelled", "timed_out")
_USAGE = {"prompt_tokens", "completion_tokens", "total_tokens", "latency_sec", "num_requests"}
_SAYS = {"embed": "embedding", "score": "score", "rerank": "results", "rag": "passages"}  # where an item has what came of it; elsewhere in `output`
_KINDS = {"text": str, "list": list, "mapping": dict, "number": (int, float)}
_CHECKS: dict[str, Callable[[Any, Any], bool]] = {
    "equals": lambda value, wanted: bool(value == wanted),
    "contains": lambda value, wanted: wanted in value,
    "matches": lambda value, wanted: re.search(wanted, value) is not None,
    "each_matches": lambda value, wanted: bool(value) and all(re.search(wanted, one) for one in value),
    "each_is": lambda value, wanted: bool(value) and all(isinstance(one, _KINDS[wanted]) for one in value),
    "length": lambda value, wanted: len(value) == wanted,
    "at_least_long": lambda value, wanted: len(value) >= wanted,
    "at_least": lambda value, wanted: bool(value >= wanted),
}


def case_of(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CASES / f"{name}.yaml").read_text()))


def names(*, models: bool) -> list[str]:
    """Templates whose cases run now."""
    cases = {name: case_of(name) for name in templates()}
    return [name for name, case in cases.items() if bool(case.get("models")) is models and "waits_for" not in case]


def task_types(name: str) -> set[str]:
    """Of the tasks that the template makes."""
    read = read_tasks(templates()[name].read_bytes(), name)
    return {task.task_type for plan in read.documents for task in plan.tasks if task.role != "pipeline"}


def lacking(name: str) -> str:
    """Why the template cannot run here: what its task types need and this machine has not; empty where it can."""
    types = task_types(name)
    return "; ".join(offer.remedy for offer in registry.available() if offer.task_type in types and not offer.runs)


def options_of(case: dict[str, Any], places: dict[str, str]) -> list[str]:
    """What the command line is given beside the template's name."""
    written = {path: json.dumps(value) for path, value in case.get("set", {}).items()}
    for name, place in places.items():
        written = {path: value.replace("{" + name + "}", place) for path, value in written.items()}
    return [part for path, value in written.items() for part in ("--set", f"{path}={value}")]


def run_case(cell: WholeCell, name: str) -> None:
    """Submit the template as a person does, wait for its end, hold it against its case. Raises AssertionError."""
    case = case_of(name)
    with sink() as (place, posted):
        places = {"api": f"http://127.0.0.1:{cell.port}", "sink": place, "python": sys.executable, "mcp_server": str(MCP_SERVER)}
        if "{agent_model}" in str(case.get("set")):
            places["agent_model"] = agent_model(cell)
        options = options_of(case, places)
        done = cell.command("mloc.services.intake.cli", "submit", "--json", "--template", name, "--idempotency-key", f"case-{name}", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        answer = json.loads(done.stdout)
        tasks = {_short(task): task["task_id"] for task in _submitted(answer)}
        expect = case["expect"]
        for short, state in expect["states"].items():
            assert short in tasks, (short, sorted(tasks))
            shown = cell.until(lambda id=tasks[short]: _ended(cell, id), float(case["seconds"]))
            assert shown["state"] == state, (short, shown)
            if state == "published":
                _has_its_shape(shown["task_type"], cell.http("GET", f"/api/v1/results/{tasks[short]}")[1])
        for short, count in expect.get("attempts", {}).items():
            assert _ended(cell, tasks[short])["attempt"] == count
        for short, checks in expect.get("results", {}).items():
            status, result = cell.http("GET", f"/api/v1/results/{tasks[short]}")
            assert status == 200, result
            for check in checks:
                _hold(name, short, result, check)
        for short in expect["states"]:
            cell.until(lambda id=tasks[short]: all(one["state"] == "made" for one in _ended(cell, id).get("callbacks", ())), 30)
        for path in expect.get("posted", []):
            cell.until(lambda path=path: path in posted, 30)


def agent_model(cell: WholeCell) -> str:
    """The folder of the model that the template agent_tiny teaches to use tools; made once in a cell, where its own case finds it, too."""
    done = cell.command("mloc.services.intake.cli", "submit", "--json", "--template", "agent_tiny", "--idempotency-key", "case-agent_tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    (train,) = [task["task_id"] for task in _submitted(json.loads(done.stdout)) if _short(task) == "train"]
    shown = cell.until(lambda: _ended(cell, train), 240.0)
    assert shown["state"] == "published", shown
    return str(cell.http("GET", f"/api/v1/results/{train}")[1]["final_model_path"])


@contextmanager
def sink() -> Iterator[tuple[str, list[str]]]:
    """A server that takes whatever is posted, and finds one thing whatever is searched for: its address, and the paths that were posted to."""
    posted: list[str] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            posted.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def do_GET(self) -> None:
            found = {"results": [{"title": "Physics 1901", "url": "http://search/1901", "content": "Wilhelm Röntgen won it."}]}
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", posted
    finally:
        server.shutdown()
        server.server_close()


def _submitted(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return list(answer["tasks"])


def _short(task: dict[str, Any]) -> str:
    """The stage's name, or the task's."""
    return str(task.get("stage") or task.get("name") or task["task_id"])


def _ended(cell: WholeCell, id: str) -> dict[str, Any] | None:
    status, shown = cell.http("GET", f"/api/v1/tasks/{id}")
    assert status == 200, shown
    return shown if shown["state"] in ENDED else None


def _hold(name: str, short: str, result: Any, check: dict[str, Any]) -> None:
    (kind,) = check.keys() - {"path"}
    value = look_up(result, parse_path(check["path"]))
    assert _CHECKS[kind](value, check[kind]), f"{name}: {short}.{check['path']} should be {kind} {check[kind]!r}, is {value!r}"


def _has_its_shape(task_type: str, result: Any) -> None:
    """What every result of the kind has, whatever its case looks at."""
    assert result["ok"] is True, result
    assert isinstance(result["model"], str)
    assert result["usage"].keys() >= _USAGE
    if "training" in result:
        assert result["training"].keys() >= {"steps", "epochs", "history"}
        assert result["task_id"] in result["output_dir"]
        assert result.get("final_model_path") or result.get("final_lora_path")
        return
    assert [item["index"] for item in result["items"]] == list(range(len(result["items"])))
    said = _SAYS.get(task_type, "output")
    assert all("error" in item or {"prompt", said} <= item.keys() for item in result["items"]), result["items"]


def case_file(name: str) -> Path:
    return CASES / f"{name}.yaml"
