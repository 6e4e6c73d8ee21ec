"""`mloc-intake` and files that are wrong or cannot be read: each is named with its place and the reason, and nothing is half-submitted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mloc.services.log.limits import MAX_SUBMISSION
from tests.services.intake.conftest import ECHO, Cli


def too_deep() -> str:
    return "a: " + "[" * 5000 + "]" * 5000


def alias_bomb() -> str:
    return "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


def many_tasks() -> str:
    return "---\n".join([ECHO] * (MAX_SUBMISSION + 1))


# what is wrong with the file → what the message must name
BAD_FILES: dict[str, tuple[str, str]] = {
    "broken YAML": ("a: [1, 2\nb: 3", "bad.yaml:"),
    "a duplicate key": (ECHO + "  taskType: sft\n", "bad.yaml:7:3"),
    "an unknown key": (ECHO.replace("taskType", "taskTipe"), "taskType"),
    "a wrong type": (ECHO + "  timeout_sec: soon\n", "timeout_sec"),
    "an unknown reference": (ECHO.replace("[a, b]", "['${other.result.x}']"), "other"),
    "a cycle": (ECHO + "  stages: [{name: a, dependsOn: [b]}, {name: b, dependsOn: [a]}]\n", "wait for each other"),
    "deep nesting": (too_deep(), "nested too deeply"),
    "an alias bomb": (alias_bomb(), "alias"),
    "too many tasks": (many_tasks(), "256"),
    "a missing data file": (ECHO.replace("{prompts: [a, b]}", "\n    jsonl:\n      path: not/there.jsonl"), "bad.yaml:8:13"),
    "an unknown dependency": (ECHO + "  dependsOn: [nobody]\n", "nobody"),
    "no model": (ECHO.replace("taskType: echo", "taskType: inference"), "VLLM_MODEL"),
    "nothing": ("", "no task"),
    "a list": ("- a\n- b\n", "mapping"),
    "one of two documents": (ECHO + "---\n" + ECHO.replace("echo", "ecko"), "ecko"),
    "lost line breaks": (ECHO.replace("\n", ""), "line breaks"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_wrong_file_is_refused_whole_with_its_place(cli: Cli, what: str) -> None:
    text, named = BAD_FILES[what]
    Path("bad.yaml").write_text(text)
    assert cli("bad.yaml") == 2
    assert named in cli.err
    assert "nothing was submitted" in cli.err
    assert cli.log() == []


def bad_paths() -> dict[str, tuple[Callable[[], str], str]]:
    def huge() -> str:
        Path("huge.yaml").write_bytes(b"#" * 2_000_000)
        return "huge.yaml"

    def not_text() -> str:
        Path("image.yaml").write_bytes(b"\x89PNG\r\n\xff\xfe")
        return "image.yaml"

    def nearly_there() -> str:
        Path("task.yml").write_text(ECHO)
        return "task.yaml"

    def empty_folder() -> str:
        Path("folder").mkdir()
        return "folder"

    def unreadable() -> str:
        Path("secret.yaml").write_text(ECHO)
        Path("secret.yaml").chmod(0)
        return "secret.yaml"

    return {
        "huge": (huge, "1,048,576"), "not text": (not_text, "UTF-8"), "not there": (nearly_there, "did you mean task.yml?"),
        "a folder": (empty_folder, "without task files"), "unreadable": (unreadable, "Permission denied"),
    }  # fmt: skip


@pytest.mark.parametrize("what", bad_paths())
def test_a_file_that_cannot_be_read_is_named_with_the_reason(cli: Cli, what: str) -> None:
    make, named = bad_paths()[what]
    if what == "unreadable" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = make()
    assert cli("submit", path) == 2
    assert path.removesuffix("/") in cli.err
    assert named in cli.err
    assert cli.log() == []


def test_of_several_files_the_right_ones_go_in_and_each_wrong_one_is_named(cli: Cli) -> None:
    Path("jobs").mkdir()
    for name, text in {"a.yaml": ECHO, "b.yaml": "a: [", "c.yml": ECHO, "notes.txt": "?"}.items():
        (Path("jobs") / name).write_text(text)
    assert cli("submit", "jobs", "missing.yaml") == 2
    assert cli.out.count("submitted hello-") == 2
    assert "jobs/b.yaml" in cli.err
    assert "missing.yaml" in cli.err
    assert cli.log().count("TaskSubmitted") == 2
    answer = cli.json("submit", "jobs", code=2)
    assert [(file["source"], file["ok"]) for file in answer["files"]] == [("jobs/a.yaml", True), ("jobs/b.yaml", False), ("jobs/c.yml", True)]


def test_a_file_of_a_folder_that_cannot_be_read_keeps_no_other_back(cli: Cli) -> None:
    Path("jobs").mkdir()
    Path("jobs/a.yaml").write_bytes(b"#" * 2_000_000)
    Path("jobs/b.yaml").write_text(ECHO)
    assert cli("submit", "jobs") == 2
    assert "jobs/a.yaml is 2,000,000 bytes long" in cli.err
    assert cli.log().count("TaskSubmitted") == 1
