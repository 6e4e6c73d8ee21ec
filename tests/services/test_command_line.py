"""The command `mloc`: help that names every command, clear errors with their exit codes, services started with their settings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mloc.services import command_line
from mloc.services.server.address import NoServerError


def mloc(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: text for name, text in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME")}
    command = [sys.executable, "-m", "mloc.services.command_line", *arguments]
    return subprocess.run(command, cwd=tmp_path, env=inherited | environ, capture_output=True, text=True, check=False, timeout=60)


def test_help_names_every_command_and_gives_examples(tmp_path: Path) -> None:
    said = mloc(tmp_path, "--help").stdout
    for name in ("up", "worker", "scheduler", "aggregator", "metrics", "intake-api", "start", "doctor", "demo"):
        assert re.search(rf"^    {name}\b", said, re.MULTILINE), name
    assert "mloc up --workers 2 --fast" in said


def test_a_setting_that_cannot_be_used_stops_the_start_without_a_traceback(tmp_path: Path) -> None:
    ran = mloc(tmp_path, "scheduler", PORT="x", LOG_LEVEL="loud")
    assert ran.returncode == 78
    assert ran.stderr.splitlines() == [
        "mloc scheduler: PORT=x cannot be used: it takes a whole number from 1 to 65_535",
        "mloc scheduler: LOG_LEVEL=loud cannot be used: it takes one of DEBUG, INFO, WARNING, ERROR, CRITICAL",
    ]
    assert list(tmp_path.iterdir()) == []


def test_starting_a_node_needs_its_type(tmp_path: Path) -> None:
    ran = mloc(tmp_path, "start")
    assert (ran.returncode, ran.stderr.strip()) == (
        2,
        "mloc start: say --node-type orchestrator or --node-type worker, or set MLOC_NODE_TYPE",
    )


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (NoServerError("no event log found"), 69, "mloc worker: no event log found"),
        (OSError(98, "Address already in use"), 78, "Address already in use"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
    ],
)
def test_what_a_person_can_cause_is_told_in_a_line(
    error: Exception, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_name: str) -> int:
        raise error

    monkeypatch.setattr(command_line, "_run_service", fail)
    assert command_line.main(["worker"]) == code
    assert words in capsys.readouterr().err


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_name: str) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(command_line, "_run_service", fail)
    with pytest.raises(ZeroDivisionError):
        command_line.main(["worker"])
