"""`mloc export results` and `mloc report` on a real server: whole tables in a new folder each time, and figures that add up."""

from __future__ import annotations

import csv
import errno
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mloc.core.codec import encode, type_of
from mloc.core.events import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    Error,
    Event,
    ResultPublished,
    TaskCancelled,
    TaskDeadLettered,
    TaskDispatched,
    WorkerRegistered,
)
from mloc.services.command_line import main
from mloc.services.exports import commands as exporting
from mloc.services.exports.columns import ITEMS, TASKS, item_row
from mloc.services.exports.folder import new_version
from mloc.services.exports.report import p95, report, union_ms
from mloc.services.intake.cli import main as intake

ECHO = """apiVersion: mloc/v1
kind: EchoTask
metadata: {name: hello, project: p, owner: ada}
spec: {taskType: echo, data: {prompts: [a, b]}}
"""
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
RESULT = {
    "ok": True, "model": "m", "usage": {"total_tokens": 7, "latency_sec": 0.5},
    "items": [
        {"index": 0, "prompt": "a, \"quoted\"\nline", "output": "ä", "finish_reason": "stop", "metadata": {"k": 1}},
        {"index": 1, "prompt": "b", "error": {"type": "Boom", "message": "bad row"}},
    ],
}  # fmt: skip


@pytest.fixture
def cell(valkey_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """One task with a result, one that was given up, one that waits; the working folder is `tmp_path`."""
    values = {"REDIS_URL": valkey_url, "MLOC_NAMESPACE": namespace, "ORCHESTRATOR_STATE_DIR": str(tmp_path / "state"), "HOME": str(tmp_path)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RESULTS_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("hello.yaml").write_text(ECHO)
    ids = []
    for _ in range(3):
        assert intake(["hello.yaml", "--json"]) == 0
        ids.append(json.loads(capsys.readouterr().out)["task_id"])
    client = redis.Redis.from_url(valkey_url)
    worker = {"worker": "w", "incarnation": 1}
    error = Error("Boom", "it | broke", retryable=False)
    done, failed = ({"task": id, "attempt": 1, **worker} for id in ids[:2])
    events: list[Event] = [
        WorkerRegistered(**worker, task_types=("echo",), cost_per_hour=2.0), TaskDispatched(**done), AttemptStarted(**done),
        AttemptSucceeded(**done, result=Raw(json.dumps(RESULT).encode()), duration_ms=36_000.0, usage=USAGE), ResultPublished(task=ids[0], attempt=1),
        TaskDispatched(**failed), AttemptStarted(**failed), AttemptFailed(**failed, error=error),
        TaskDeadLettered(task=ids[1], attempt=1, error=error),
    ]  # fmt: skip
    for event in events:
        client.xadd(f"{{{namespace}}}:events", {"type": type_of(event), "data": encode(event)})
    return tmp_path


def test_each_export_is_a_new_folder_with_two_tables_and_a_manifest(cell: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        assert main(["export", "results", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"ok": True, "path": f"exports/results/v000{number}", "tasks": 3, "items": 2}
    folder = cell / "exports" / "results" / "v0002"
    with (folder / "items.csv").open(newline="", encoding="utf-8") as text:
        first, second = csv.DictReader(text)
    assert (first["prompt"], first["output"], first["metadata"]) == ('a, "quoted"\nline', "ä", '{"k":1}')
    assert (second["output"], second["error_type"], second["error_message"]) == ("", "Boom", "bad row")
    with (folder / "tasks.csv").open(newline="", encoding="utf-8") as text:
        tasks = list(csv.DictReader(text))
    assert [task["state"] for task in tasks] == ["published", "dead_lettered", "ready"]
    assert (tasks[0]["total_tokens"], tasks[0]["items"], tasks[1]["error_type"]) == ("7", "2", "Boom")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [file["path"] for file in manifest["files"]] == ["items.csv", "tasks.csv"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["v0001", "v0002"]


def test_json_is_a_line_a_row_and_filters_choose_the_tasks(cell: Path) -> None:
    assert main(["export", "results", "--format", "json", "--state", "published", "--output", "out"]) == 0
    rows = [json.loads(line) for line in (cell / "out" / "results" / "v0001" / "tasks.jsonl").read_text().splitlines()]
    assert [(set(row), row["total_tokens"]) for row in rows] == [(set(TASKS), 7)]


def test_a_task_that_leaves_the_list_while_it_is_written_keeps_no_other_out(
    cell: Path, valkey_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given pages of one task, and a first one that is cancelled as soon as its page was read
    monkeypatch.setattr(exporting, "MAX_PAGE_SIZE", 1)
    row = exporting.task_row

    def cancelled(view: dict[str, Any], *more: Any) -> dict[str, Any]:
        if view["state"] == "dead_lettered":
            event = TaskCancelled(task=view["task_id"])
            redis.Redis.from_url(valkey_url).xadd(f"{{{namespace}}}:events", {"type": type_of(event), "data": encode(event)})
        return row(view, *more)

    monkeypatch.setattr(exporting, "task_row", cancelled)
    # when those are exported that were given up or wait
    assert main(["export", "results", "--format", "json", "--state", "dead_lettered,ready"]) == 0
    # then both are there
    rows = [json.loads(line) for line in (cell / "exports" / "results" / "v0001" / "tasks.jsonl").read_text().splitlines()]
    assert [row["state"] for row in rows] == ["dead_lettered", "ready"]


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs the training extra")
def test_parquet_has_typed_columns(cell: Path) -> None:
    assert main(["export", "results", "--format", "parquet"]) == 0
    read = "import json, sys; from pyarrow import parquet; t = parquet.read_table(sys.argv[1]); print(json.dumps([t.to_pylist(), str(t.schema)]))"
    file = cell / "exports" / "results" / "v0001" / "items.parquet"
    rows, schema = json.loads(subprocess.run([sys.executable, "-c", read, str(file)], capture_output=True, check=True).stdout)
    assert [(row["index"], row["output"]) for row in rows] == [(0, "ä"), (1, None)]
    assert "index: int64" in schema


def test_without_pyarrow_parquet_is_refused_with_what_to_do_and_leaves_nothing(
    cell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = cell / "hidden"
    (hidden / "pyarrow").mkdir(parents=True)
    (hidden / "pyarrow" / "__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", f"{hidden}:{Path(__file__).parents[2] / 'typings'}")
    assert main(["export", "results", "--format", "parquet"]) == 1
    said = capsys.readouterr().err
    assert "mloc[training]" in said
    assert "--format csv" in said
    assert list((cell / "exports" / "results").iterdir()) == []


def test_a_report_says_success_times_causes_and_cost(cell: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 0
    text = capsys.readouterr().out
    assert "success rate: 50.0 % (1 of 2 that ended)" in text
    assert "| echo | 2 | 50.0 % |" in text
    assert "| Boom | 1 | echo | hello-" in text
    assert "it \\| broke" in text
    assert "| w | 2 | 0.00 | 2.00 | 0.00 |" in text


def test_a_report_says_what_types_models_and_owners_took_where_the_read_model_is_there(cell: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 0
    assert "Not known: " in capsys.readouterr().out
    assert main(["read-model", "rebuild"]) == 0
    capsys.readouterr()
    assert main(["report", "--owner", "ada", "--since", "1h"]) == 0
    text = capsys.readouterr().out
    assert "| type | prompt tokens | completion tokens | tokens | GPU-seconds | cost |" in text
    assert "| echo | 3 | 4 | 7 | 0 | 0.02 |" in text
    assert "| owner |" not in text
    assert main(["report"]) == 0
    assert "| ada | 3 | 4 | 7 | 0 | 0.02 |" in capsys.readouterr().out
    assert main(["report", "--project", "p"]) == 0
    assert "not by project" in capsys.readouterr().out


@pytest.mark.parametrize("command", [("report", "--output", "not/there.md"), ("export", "results", "--output", "hello.yaml")])
def test_a_place_that_cannot_be_written_is_said_in_plain_words(cell: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"mloc {command[0]}: {command[-1]}")
    assert "[Errno" not in said


@pytest.mark.parametrize("command", [("report",), ("export", "results")])
def test_a_log_that_cannot_be_reached_and_a_filter_that_is_none_are_said(
    cell: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--state", "nope"]) != 0
    assert "state takes" in capsys.readouterr().err
    monkeypatch.setattr("mloc.services.intake.commands.log_session.PATIENCE_SEC", 0.1)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert main(list(command)) != 0
    assert "127.0.0.1:1" in capsys.readouterr().err


VIEW: dict[str, Any] = {"task_id": "t", "name": "n"}


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.integers()))


@given(st.dictionaries(st.sampled_from([*ITEMS, "usage", "x"]), VALUES))
def test_a_row_has_every_column_with_its_type_whatever_an_item_holds(item: dict[str, Any]) -> None:
    row = item_row(VIEW, "m", 0, item)
    assert set(row) == set(ITEMS)
    assert all(value is None or type(value) is ITEMS[name] for name, value in row.items())


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 200)), max_size=20))
def test_overlapping_spans_count_once(spans: list[tuple[int, int]]) -> None:
    intervals = [(start, start + length) for start, length in spans]
    assert union_ms(intervals) == len({at for start, end in intervals for at in range(start, end)})


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=100))
def test_p95_is_one_of_the_values_and_at_most_five_in_a_hundred_are_above(values: list[float]) -> None:
    shown = float(p95(values))
    assert any(abs(value - shown) <= 0.006 for value in values)
    assert sum(value > shown + 0.006 for value in values) <= 0.05 * len(values)


def test_a_disk_that_takes_no_name_ends_the_export_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"), new_version(tmp_path, {}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_nothing_is_one_too() -> None:
    assert "success rate: - (0 of 0 that ended)" in report([], [], 0, "Tasks.", {"missing": "nobody counted"})
