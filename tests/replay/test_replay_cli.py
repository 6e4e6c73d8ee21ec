"""The command `mloc-replay` against a real server: what it says, and its exit codes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from mloc.core.events import Error
from mloc.replay import cli
from mloc.services.log.cluster_snapshots import ClusterSnapshots
from tests.histories import History


@pytest.fixture
def made() -> History:
    made = History(outcome=lambda task, attempt: Error("ValueError", "no such column", retryable=False) if task == "bad" else {"ok": True})
    made.worker("w1")
    made.submit("good")
    made.submit("bad")
    made.settle()
    return made


def test_rebuild_tells_counts_position_and_digest(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rebuild"]) == 0
    text = capsys.readouterr().out
    assert f"position  {history.entries[-1].id}" in text
    assert history.cluster.digest() in text
    assert cli.main(["rebuild", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == {"published": 1, "dead_lettered": 1}


def test_at_shows_the_cluster_and_one_task_at_any_point(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["at", "#3"]) == 0
    assert "1 ready" in capsys.readouterr().out
    assert cli.main(["at", history.entries[-1].id, "--task", "bad"]) == 0
    assert "ValueError: no such column (trying again cannot help)" in capsys.readouterr().out
    assert cli.main(["at", "-1s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["digest"], {task["id"]: task["phase"] for task in found["tasks"]}) == (
        history.cluster.digest(), {"good": "published", "bad": "dead_lettered"}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["at", "yesterday"], 2, "'yesterday' is no point of history; it takes an event id"),
        (["at", "#2", "--task", "goo"], 1, "no task goo at"),
        (["at", "2001-01-01"], 1, "nothing had happened yet at 2001-01-01"),
        (["at", "#9", "--task", "goo"], 1, "tasks there: good"),
    ],
)
def test_what_is_not_there_is_said_with_an_exit_code(
    history: History, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    assert cli.main(arguments) == code
    assert says in capsys.readouterr().err


def test_a_log_that_cannot_be_reached_and_wrong_settings_have_codes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert cli.main(["rebuild"]) == 3
    assert "no event log found" in capsys.readouterr().err
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/nobody.sock")
    assert cli.main(["rebuild"]) == 3
    monkeypatch.setenv("PORT", "many")
    assert cli.main(["rebuild"]) == 2
    assert "PORT=many cannot be used" in capsys.readouterr().err


def test_verify_without_any_snapshot_fails_with_a_hint(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify"]) == 1
    assert "none has written a snapshot yet" in capsys.readouterr().out


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "mloc-replay at -5m" in capsys.readouterr().out


def test_verify_compares_with_the_snapshots_of_the_services(history: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # given the scheduler's snapshot as it writes it when it stops
    keeper = ClusterSnapshots(tmp_path / "state" / "snapshots", "scheduler")
    keeper.offer(history.cluster, hashlib.sha256(history.entries[-1].payload).hexdigest(), now=0.0, final=True)
    # then the log gives the same state
    assert cli.main(["verify", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["verdicts"][0]["service"], found["verdicts"][0]["same"]) == (True, "scheduler", True)
    # and a service that must have a snapshot and has none is a failure
    assert cli.main(["verify", "--require", "all"]) == 1
    assert "aggregator  NO SNAPSHOT" in capsys.readouterr().out


def test_verify_shows_a_state_that_the_log_does_not_give(history: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = history.cluster.tasks["good"]
    history.cluster.tasks["good"] = msgspec.structs.replace(task, worker="w9")
    ClusterSnapshots(tmp_path / "state" / "snapshots", "scheduler").offer(history.cluster, "", now=0.0, final=True)
    assert cli.main(["verify"]) == 1
    assert "task good: worker 'w9', by the log 'w1'" in capsys.readouterr().out
