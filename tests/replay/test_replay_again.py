"""`mloc-replay diff`, `export` and `task` against a real server."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from mloc.console.listed_entries import open_archive
from mloc.core import codec
from mloc.core.events import TaskSubmitted
from mloc.replay import cli
from tests.histories import History


@pytest.fixture
def made() -> History:
    made = History(outcome=lambda task, attempt: {"ok": True, "items": [task]})
    made.worker("w1")
    made.submit("old")
    made.settle()
    made.pipeline("pipe", {"train": "sft", "infer": "inference"})
    made.submit("after", depends_on=("old",), met={"old": made.cluster.tasks["old"].result_id})
    made.settle()
    return made


def in_the_log(tmp_path: Path) -> list[TaskSubmitted]:
    assert cli.main(["export", str(tmp_path / "now.jsonl"), "--force"]) == 0
    events = [codec.decode(entry.type, entry.payload) for entry in open_archive(tmp_path / "now.jsonl").entries]
    return [event for event in events if isinstance(event, TaskSubmitted)]


def test_diff_names_what_came_and_what_changed_in_either_order(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    first = next(entry.id for entry in history.entries if b'"pipe.train"' in entry.payload)
    last = history.entries[-1].id
    assert cli.main(["diff", "#3", last]) == 0
    text = capsys.readouterr().out
    assert "task   old         ready → published" in text
    assert "task   pipe.infer  new, published" in text
    assert "5 ResultPublished" in text
    answers = []
    for points in ([first, last], [last, first]):
        assert cli.main(["diff", *points, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    assert answers[0]["second"]["digest"] == history.cluster.digest()
    assert cli.main(["diff", last, last]) == 0
    assert "no task and no worker differs" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.zst"])
def test_an_export_is_the_log_entry_by_entry(history: History, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(tmp_path / "a" / name), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == len(history.entries)
    assert [tuple(entry) for entry in open_archive(tmp_path / "a" / name).entries] == [tuple(entry) for entry in history.entries]
    assert [file.name for file in (tmp_path / "a").iterdir()] == [name]


def test_an_export_leaves_a_file_that_is_there_alone_unless_told_otherwise(
    history: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.jsonl"
    kept.write_text("of yesterday")
    assert cli.main(["export", str(kept)]) == 2
    assert "kept.jsonl is there already" in capsys.readouterr().err
    assert kept.read_text() == "of yesterday"
    assert cli.main(["export", str(kept), "--force"]) == 0
    assert len(open_archive(kept).entries) == len(history.entries)


def test_an_export_of_a_part_has_that_part_alone(history: History, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    middle = history.entries[5].id
    assert cli.main(["export", "-", "--since", history.entries[1].id, "--until", middle]) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert [msgspec.json.decode(line)[0] for line in lines] == [entry.id for entry in history.entries[2:6]]
    assert cli.main(["export", "-", "--task", "old"]) == 0
    of_old = [entry.id for entry in history.entries if b'"old"' in entry.payload]
    assert [msgspec.json.decode(line)[0] for line in capfdbinary.readouterr().out.splitlines()] == of_old != []


def test_a_pipeline_is_submitted_again_whole_under_new_ids(history: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = len(in_the_log(tmp_path))
    capsys.readouterr()
    # when it is asked what would happen, nothing happens
    assert cli.main(["task", "pipe", "--dry-run", "--json"]) == 0
    assert [task["task_id"] for task in json.loads(capsys.readouterr().out)["tasks"]] == [None, None, None]
    assert len(in_the_log(tmp_path)) == before
    capsys.readouterr()
    # when it is asked for, then its stages wait for each other as they did
    assert cli.main(["task", "pipe", "--json"]) == 0
    new = {task["again_of"]: task["task_id"] for task in json.loads(capsys.readouterr().out)["tasks"]}
    root, train, infer = in_the_log(tmp_path)[before:]
    assert (root.task, root.children) == (new["pipe"], (train.task, infer.task))
    assert (train.task, train.parent, infer.depends_on) == (f"{root.task}.train", root.task, (train.task,))
    assert root.task != "pipe"
    assert bytes(train.spec) == bytes(next(event for event in in_the_log(tmp_path) if event.task == "pipe.train").spec)


def test_a_task_that_used_an_earlier_ones_result_uses_it_again(history: History, tmp_path: Path) -> None:
    assert cli.main(["task", "after"]) == 0
    again = in_the_log(tmp_path)[-1]
    assert (again.name, again.depends_on, again.met) == ("after", ("old",), {"old": history.cluster.tasks["old"].result_id})


def test_the_output_of_a_task_is_shown_again(history: History, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["task", "old", "--output"]) == 0
    assert json.loads(capfdbinary.readouterr().out) == {"ok": True, "items": ["old"]}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["task", "pip"], 1, "the log holds no task 'pip'; did you mean \"pipe\"?"),
        (["task", "pipe.infer"], 1, "pipe.infer is a stage of pipe"),
        (["diff", "yesterday"], 2, "'yesterday' is no point of history"),
        (["export", "x.jsonl", "--since", "#3"], 2, "export takes a time or an event id"),
        (["export", "/proc/nothing/x.jsonl"], 1, "/proc/nothing"),
        (["what-if", "--workers", "0"], 2, "--workers is 1 or more"),
        (["what-if", "--max-attempts", "-1"], 2, "--max-attempts is 1 or more"),
        (["what-if", "--backoff-sec", "-2"], 2, "--backoff-sec is 0 or more"),
        (["what-if", "--backoff-sec", "nan"], 2, "--backoff-sec is 0 or more"),
    ],
)
def test_what_cannot_be_done_is_said(history: History, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str) -> None:
    assert cli.main(arguments) == code
    assert says in capsys.readouterr().err


def test_what_if_shows_three_courses_and_takes_known_policies(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["what-if", "--workers", "3", "--policy", "round-robin"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[-1].strip() == "what if"
    assert next(line.split()[1:] for line in lines if line.startswith("published")) == ["4", "4", "4"]
    assert cli.main(["what-if", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same"] == found["then"]
