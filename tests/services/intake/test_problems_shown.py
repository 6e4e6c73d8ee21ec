"""How a terminal shows what is wrong in a task file: lines around the place, a mark, what was found and accepted; colours only where wanted."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from mloc.core.language.errors import LanguageError
from mloc.core.language.reading import read_tasks
from mloc.services.intake.commands.problems import problem_text
from tests.services.intake.conftest import CLI, ECHO, Cli

WRONG = ECHO.replace("taskType: echo", "taskTipe: echo")


def shown(text: str) -> str:
    with pytest.raises(LanguageError) as caught:
        read_tasks(text, "bad.yaml")
    return "\n".join(problem_text(problem, text.splitlines()).plain for problem in caught.value.problems)


def test_a_problem_is_shown_with_its_line_those_before_it_a_mark_and_a_hint() -> None:
    text = shown(WRONG)
    lines = text.splitlines()
    place = next(at for at, line in enumerate(lines) if "--> bad.yaml:5:3" in line)
    assert lines[place + 1].endswith("3 | metadata: {name: hello, owner: ada, project: p, labels: {team: x}}")
    assert lines[place + 2].endswith("4 | spec:")
    assert lines[place + 3].endswith("5 |   taskTipe: echo")
    assert lines[place + 4].index("^") == lines[place + 3].index("taskTipe")
    assert 'did you mean "taskType"?' in text


def test_a_very_long_line_is_cut_to_what_is_around_the_mark() -> None:
    text = shown(ECHO.replace("[a, b]", "[" + "a, " * 2000 + "{nope: 1}]").replace("taskType: echo", "taskType: echo\n  nope: " + "x" * 5000))
    assert max(len(line) for line in text.splitlines()) < 300


def test_a_file_cannot_drive_the_terminal() -> None:
    assert "\x1b" not in shown(WRONG.replace("hello", "a\\e[31m").replace("taskTipe: echo", 'taskTipe: "\\e[31m"'))


def on_a_terminal(arguments: tuple[str, ...], **environ: str) -> str:
    """What the command writes on standard error when that is a terminal."""
    outer, inner = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    ran = subprocess.Popen([*CLI, *arguments], stdout=subprocess.PIPE, stderr=inner, env={**env, "TERM": "xterm-256color", **environ})
    os.close(inner)
    said = b""
    try:
        while piece := os.read(outer, 65536):
            said += piece
    except OSError:  # the other end was closed
        pass
    ran.wait(60)
    os.close(outer)
    return said.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal that ends with its writer")
def test_a_terminal_gets_colours_and_none_with_no_color(cli: Cli) -> None:
    Path("bad.yaml").write_text(WRONG)
    assert "\x1b[1;31m" in on_a_terminal(("validate", "bad.yaml"))
    plain = on_a_terminal(("validate", "bad.yaml"), NO_COLOR="1")
    assert "taskTipe" in plain
    assert "[31m" not in plain
    assert cli("validate", "bad.yaml") == 2
    assert "\x1b" not in cli.err


def test_of_a_folder_each_wrong_file_is_named_and_the_end_is_not_zero(cli: Cli) -> None:
    Path("jobs").mkdir()
    for name, text in {"a.yaml": ECHO, "b.yaml": WRONG, "c.yaml": "a: ["}.items():
        (Path("jobs") / name).write_text(text)
    assert cli("validate", "jobs") == 2
    assert "jobs/b.yaml:5:3" in cli.err
    assert "jobs/c.yaml:" in cli.err
    assert "2 of 3 files are wrong" in cli.err
    assert "a.yaml: right" in cli.out
    answer = cli.json("validate", "jobs", code=2)
    assert [file["ok"] for file in answer["files"]] == [True, False, False]
    assert answer["files"][1]["error"]["problems"][0]["line"] == 5
    assert json.dumps(answer).count("\\u001b") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("lst",), 'did you mean "list"?'), (("submti", "x.yaml"), 'did you mean "submit"?'), (("list", "--sinc", "2h"), 'did you mean "--since"?'),
     (("show", "x", "--jsno"), 'did you mean "--json"?'), (("templates", "ehco"), 'did you mean "echo"?'),
     (("submit", "--template", "ehco"), 'did you mean "echo"?')],
)  # fmt: skip
def test_a_mistyped_command_option_or_template_gets_the_nearest(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    assert cli(*arguments) == 2
    assert said in cli.err


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("spec.data.prompts=[x, 'y z', '7']", ("data", "prompts"), None),
        ("spec.timeout_sec=60", ("timeout_sec",), 60.0),
        ("spec.retry={max_attempts: 7, backoff_sec: 1}", ("retry", "max_attempts"), 7),
        ("spec.retry.max_attempts=5", ("retry", "max_attempts"), 5),
        ('metadata.name="7"', ("name",), "7"),
        ("metadata.name=a=b", ("name",), "a=b"),
    ],
)
def test_set_takes_yaml_values_nested_paths_and_quotes(cli: Cli, setting: str, path: tuple[str, ...], value: object) -> None:
    Path("hello.yaml").write_text(ECHO)
    shown = cli.json("show", cli.json("hello.yaml", "--set", setting)["task_id"])
    found = shown if path == ("name",) else shown["spec"]
    for step in path if value is not None else ():
        found = found[step]
    assert value is None or found == value
    assert value is not None or shown["rows"]["of"] == 3


def test_a_template_is_printed_by_show_and_as_json(cli: Cli) -> None:
    assert cli("templates", "show", "echo") == 0
    assert "apiVersion: mloc/v1" in cli.out
    assert "apiVersion: mloc/v1" in cli.json("templates", "show", "echo")["text"]
    assert cli("templates", "show") == 2
