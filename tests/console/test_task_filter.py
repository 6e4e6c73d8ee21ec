"""The filter of the task list."""

import pytest

from mloc.console import task_filter
from mloc.console.task_filter import FilterError
from mloc.core.task import Task

NOW = 1_000_000
TASKS = [
    Task("train", "Train it", "SFTTask", "sft", owner="ada", phase="running", worker="gpu-01", labels={"team": "x"}, submitted_ms=NOW - 600_000),
    Task("bad", "", "EchoTask", "echo", owner="bob", phase="dead_lettered", worker="cpu-1", reason="no such column", submitted_ms=NOW - 1000),
    Task("p", "", "Pipeline", "", owner="ada", phase="published", submitted_ms=NOW),
]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", "train bad p"),
        ("state:running", "train"),
        ("state:running,dead-letter", "train bad"),
        ("state:FAILED", "bad"),
        ("-state:published", "train bad"),
        ("kind:sft*", "train"),
        ("type:pipeline", "p"),
        ("owner:ada state:running", "train"),
        ("worker:gpu-0*", "train"),
        ("label:team", "train"),
        ("label:team=y", ""),
        ("age>5m", "train"),
        ("age<5s", "bad p"),
        ("COLUMN", "bad"),
        ("/^(bad|p)$/ -owner:bob", "p"),
    ],
)
def test_all_terms_must_hold(text: str, ids: str) -> None:
    test = task_filter.parse(text)
    assert " ".join(task.id for task in TASKS if test is None or test(task, NOW)) == ids


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sate:running", "no field 'sate', did you mean state?"),
        ("state:runing", "no state 'runing', did you mean running?"),
        ("owner:", "'owner:' lacks a value"),
        ("/(/", "is no regular expression"),
        ("age:5m", "no field 'age'|an age is written"),
        ("age>5", "an age is written age>5m"),
    ],
)
def test_what_is_not_understood_is_said_clearly(text: str, says: str) -> None:
    with pytest.raises(FilterError, match=says.replace("?", r"\?")):
        task_filter.parse(text)
