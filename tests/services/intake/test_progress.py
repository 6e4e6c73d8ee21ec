"""What people see while they wait: bars that fit the terminal, shards in one line, one plain line for each change."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloc.services.intake.commands.progress import Changes, Reading, drawing, folded
from mloc.services.intake.streams.line_text import line_text

NOW = 1_800_000_000_000


def view(id: str, state: str = "running", **more: Any) -> dict[str, Any]:
    known = {"task_id": id, "name": id, "stage": None, "parent": None, "children": [], "reason": "", "worker_id": "w1",
             "submitted_at": "2027-01-15T08:00:00.000Z", "started_at": "2027-01-15T08:00:00.000Z", "ended_at": None}  # fmt: skip
    return {**known, "state": state, **more}


def sharded(done: int = 40, of: int = 64, each: int = 10) -> list[dict[str, Any]]:
    parent = view("infer", children=[f"infer.s{at}" for at in range(of)], children_done=done, rows={"done": 0, "of": of * each})
    shards = [
        view(f"infer.s{at}", "published" if at < done else "running", parent="infer", shard={"index": at, "count": of},
             rows={"done": each if at < done else 3, "of": each})
        for at in range(of)
    ]  # fmt: skip
    return [parent, *shards]


def test_sixty_four_shards_are_one_line() -> None:
    text = drawing(folded(sharded(), {}), NOW, 140, 40).plain
    assert len(text.splitlines()) == 1
    assert "40/64 parts, 24 running" in text
    assert "472/640 rows" in text
    assert " 74% " in text


def test_a_pipeline_shows_each_of_its_stages_with_steps_and_loss() -> None:
    views = [
        view("p", children=["p.a", "p.b"], children_done=1),
        view("p.a", "published", parent="p", stage="data"),
        view("p.b", parent="p", stage="train"),
    ]
    lines = drawing(folded(views, {"p.b": Reading(30, 120, {"loss": 1.234567, "tokens_per_sec": 812.0})}), NOW, 140, 40).plain.splitlines()
    assert len(lines) == 3
    assert "data" in lines[1]
    assert "100%" in lines[1]
    assert all(text in lines[2] for text in ("train", "25%", "running on w1", "step 30/120", "loss 1.235", "tokens/s 812"))


def test_of_many_tasks_those_that_move_are_shown_and_the_others_counted() -> None:
    views = [view(f"t{at}", "running" if at > 90 else "published") for at in range(100)]
    lines = drawing(folded(views, {}), NOW, 100, 20).plain.splitlines()
    assert lines[0] == "91 of 100 done, 9 running"
    assert sum("running on" in line for line in lines) == 9
    assert len(lines) <= 20
    assert lines[-1].endswith("more")


def test_rows_of_a_file_are_told_once_of_how_many_its_worker_reads() -> None:
    reading = {"t": Reading(604, 1000, {"rows": 604.0, "tokens_per_sec": 40.0})}
    (line,) = drawing(folded([view("t", rows={"done": 482, "of": None})], reading), NOW, 140, 40).plain.splitlines()
    assert "604/1000 rows" in line
    assert " 60% " in line
    assert not any(text in line for text in ("482", "step"))


@given(st.integers(10, 200), st.integers(3, 60), st.integers(0, 64), st.text(max_size=40))
def test_nothing_is_wider_or_higher_than_the_terminal(width: int, height: int, done: int, reason: str) -> None:
    views = [*sharded(done), *(view(f"task-with-a-long-name-{at}", reason=reason) for at in range(30))]
    text = drawing(folded(views, {}), NOW, width, height)
    assert len(text.plain.splitlines()) <= max(height, 3)
    assert all(line.cell_len < max(width, 10) for line in text.split("\n"))


@pytest.mark.parametrize("width", [20, 40, 60])
def test_a_narrow_terminal_gets_no_bar_and_keeps_the_share(width: int) -> None:
    text = drawing(folded(sharded(), {}), NOW, width, 40).plain
    assert "━" not in text


def test_where_nobody_draws_there_is_a_line_for_each_change_and_each_quarter_and_no_control_code() -> None:
    said: list[str] = []
    changes = Changes(said.append)
    task = view("t", "ready", worker_id=None)
    for state in (task, task, view("t", rows={"done": 0, "of": 100}), *(view("t", rows={"done": rows, "of": 100}) for rows in range(100)),
                  view("t", "succeeded"), view("t", "published")):  # fmt: skip
        changes.look(folded([state], {}))
    assert said == [
        "○ t: ready", "● t: running on w1", "● t: running on w1: 25/100 rows", "● t: running on w1: 50/100 rows", "● t: running on w1: 75/100 rows",
        "✓ t: published",
    ]  # fmt: skip
    assert not re.search(r"[\x00-\x1f]", "".join(said))


def test_the_shards_of_a_task_are_told_by_quarters_of_it() -> None:
    said: list[str] = []
    changes = Changes(said.append)
    for done in range(65):
        changes.look(folded(sharded(done), {}))
    assert len(said) == 4  # the running shards had 30 % of their rows when the first was looked at
    assert "/64 parts" in said[1]


def test_rows_that_are_done_are_said_once_in_a_log_and_steps_of_a_training_too() -> None:
    # given what a worker tells of rows: a line for people, and the point with its numbers; and the point of a training
    line = {"line": "12/1000 rows  40 tokens/s  1 failed"}
    rows = {"step": 12, "total_steps": 1000, "metrics": {"rows": 12.0, "tokens_per_sec": 40.0}}
    step = {"step": 3, "total_steps": 9, "metrics": {"loss": 0.5}}
    # when they are shown, then each stands there once, and lines that were dropped are never kept quiet
    assert [text for point in (line, rows, step) if (text := line_text(point))] == ["12/1000 rows  40 tokens/s  1 failed", "step 3/9 loss=0.5"]
    assert "2 lines dropped" in line_text(rows | {"dropped": 2})


def test_a_step_that_its_training_told_in_a_line_is_not_said_again() -> None:
    step = {"step": 3, "total_steps": 9, "metrics": {"loss": 0.5}}
    assert line_text(step, "step 3/9  loss 0.5  learning_rate 0.001") == ""
    for before in ("", "step 2/9  loss 0.7", "step 3/90  loss 0.5", "rank 0: step 3/9"):
        assert line_text(step, before) == "step 3/9 loss=0.5"
    assert "2 lines dropped" in line_text(step | {"dropped": 2}, "step 3/9  loss 0.5")
