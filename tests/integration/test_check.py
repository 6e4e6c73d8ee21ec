"""`mloc check` against a whole cell: what works is said to work, and what does not is said with the reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.whole_cell import WholeCell


@pytest.fixture(scope="module")
def cell() -> Iterator[WholeCell]:
    cell = WholeCell(workers=2)
    yield cell
    cell.close()


def check(cell: WholeCell, *arguments: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """(exit code, verdicts by scenario, standard error)."""
    command = (sys.executable, "-m", "mloc.services.command_line", "check", "--json", *arguments)
    ended = subprocess.run(command, env=cell.environ, cwd=cell.folder, capture_output=True, text=True, timeout=150)
    told = json.loads(ended.stdout) if ended.stdout else {"scenarios": []}
    return ended.returncode, {verdict["scenario"]: verdict for verdict in told["scenarios"]}, ended.stderr


def test_a_deployment_that_works_passes(cell: WholeCell) -> None:
    code, verdicts, errors = check(cell, "--scenario", "echo-local,echo-http,sharded,upload")
    assert [name for name, verdict in verdicts.items() if not verdict["ok"]] == [], verdicts
    assert (code, list(verdicts), errors) == (0, ["echo-local", "echo-http", "sharded", "upload"], "")
    assert verdicts["echo-http"]["said"].startswith("done by ")


def test_through_an_api_elsewhere_what_needs_the_log_is_left_out(cell: WholeCell) -> None:
    code, verdicts, _ = check(cell, "--url", f"http://127.0.0.1:{cell.port}", "--scenario", "echo-local,echo-http")
    assert code == 0
    assert [verdict["skipped"] for verdict in verdicts.values()] == [True, False]


def test_what_no_worker_can_take_fails_at_once_with_the_reason(cell: WholeCell) -> None:
    code, verdicts, _ = check(cell, "--scenario", "inference", "--device", "gpu")
    assert code == 1
    assert "gpu" in verdicts["inference"]["said"].lower()
    assert verdicts["inference"]["task_id"] == ""


def test_an_api_that_is_not_there_is_named(cell: WholeCell) -> None:
    code, verdicts, _ = check(cell, "--url", "http://127.0.0.1:9", "--scenario", "echo-http", "--timeout", "30")
    assert code == 69
    assert verdicts["echo-http"]["unreachable"]
    assert "http://127.0.0.1:9 cannot be reached" in verdicts["echo-http"]["said"]


def test_that_nobody_is_there_to_ask_is_said_once(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH")} | {"PORT": "9"}
    command = (sys.executable, "-m", "mloc.services.command_line", "check", "--scenario", "echo-local,sharded,echo-http,upload")
    ended = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    local, sharded, http, upload = ended.stdout.splitlines()
    assert ended.returncode == 69
    assert sharded.endswith("nobody to ask, as for echo-local")
    assert "nobody to ask" not in local
    assert "http://127.0.0.1:9 cannot be reached" in http
    assert upload.endswith("nobody to ask, as for echo-http")


def test_a_scenario_that_there_is_not_is_refused_with_the_nearest(cell: WholeCell) -> None:
    code, _, errors = check(cell, "--scenario", "echo-htp")
    assert code == 2
    assert 'did you mean "echo-http"?' in errors


@pytest.mark.deep
@pytest.mark.models
def test_models_answer_and_learn_and_training_falls_back_on_the_cpu(cell: WholeCell) -> None:
    code, verdicts, _ = check(cell, "--scenario", "inference,training,training-fallback")
    assert code == 0, verdicts
    assert "on the CPU" in verdicts["training-fallback"]["said"]
