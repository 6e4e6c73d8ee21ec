"""`mloc-intake` on a real server: what it submits, what it shows, and how it fails: a clear line, the right code, nothing half-submitted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from msgspec import Raw

from mloc.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    Error,
    ResultPublished,
    TaskDeadLettered,
    TaskDispatched,
    WorkerRegistered,
)
from mloc.services.log.event_log import LogUnavailable
from tests.services.intake.conftest import CLI, ECHO, Cli

WORKER = {"worker": "w", "incarnation": 1}


@pytest.mark.parametrize("options", [("--json",), ("--idempotency-key=k",), ("--template",)])
def test_options_may_come_before_the_file_where_submit_is_left_out(cli: Cli, options: tuple[str, ...]) -> None:
    Path("hello.yaml").write_text(ECHO)
    assert cli(*options, "echo" if options == ("--template",) else "hello.yaml") == 0, cli.err
    assert cli.log().count("TaskSubmitted") == 1


def test_relative_paths_start_at_the_files_folder(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"prompt": "a"}\n')
    (folder / "task.yaml").write_text(ECHO.replace("{prompts: [a, b]}", "{jsonl: {path: rows.jsonl}}"))
    id = cli.json("deep/task.yaml")["task_id"]
    assert cli.json("show", id)["spec"]["data"]["path"] == str(folder / "rows.jsonl")


def test_values_can_be_set_from_the_command_line(cli: Cli) -> None:
    Path("hello.yaml").write_text(ECHO)
    id = cli.json("submit", "hello.yaml", "--set", "spec.data.prompts=[x, y, z]", "--set", "metadata.name=other")["task_id"]
    assert id.startswith("other-")
    assert cli.json("show", id)["rows"]["of"] == 3
    assert cli("submit", "hello.yaml", "--set", "nonsense") == 2
    assert cli("submit", "hello.yaml", "--set", "spec.tasktype=1") == 2


def test_a_key_makes_submitting_twice_harmless_and_another_body_is_refused(cli: Cli) -> None:
    Path("hello.yaml").write_text(ECHO)
    first = cli.json("submit", "hello.yaml", "--idempotency-key", "k")
    again = cli.json("submit", "hello.yaml", "--idempotency-key", "k")
    assert again["task_ids"] == first["task_ids"]
    assert again["repeated"]
    Path("hello.yaml").write_text(ECHO + "  timeout_sec: 3\n")
    assert cli("submit", "hello.yaml", "--idempotency-key", "k") == 4
    assert "another body" in cli.err
    assert cli.log().count("TaskSubmitted") == 1


def test_a_dry_run_and_validate_submit_nothing(cli: Cli) -> None:
    Path("hello.yaml").write_text(ECHO)
    assert cli("submit", "hello.yaml", "--dry-run") == 0
    assert "no worker is there" in cli.out
    assert cli("validate", "hello.yaml") == 0
    assert "1 task" in cli.out
    Path("bad.yaml").write_text("a: [")
    assert cli.json("validate", "hello.yaml", "bad.yaml", code=2)["files"][1]["ok"] is False
    assert cli.log() == []


def test_a_dry_run_says_where_each_stage_would_go_or_what_it_waits_for(cli: Cli) -> None:
    cli.append(WorkerRegistered(**WORKER, task_types=("echo",)))
    Path("chain.yaml").write_text(ECHO + "  stages: [{name: one}, {name: two}, {name: three, spec: {resources: {tags: [fast]}}}]\n")
    assert cli("submit", "chain.yaml", "--dry-run") == 0
    _, _, one, two, three = cli.out.splitlines()
    assert one == "  one (echo): next in line, for worker w"
    assert two == "  two (echo): it waits for one"
    assert three.startswith("  three (echo): no worker fits; w: it lacks the tag fast; ")
    assert three.endswith("would fit w")
    assert [task["placement"]["reason"] for task in cli.json("submit", "chain.yaml", "--dry-run")["tasks"][1:]] == ["next", "held", "never_fits"]


def test_validate_needs_no_server(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    Path("hello.yaml").write_text(ECHO)
    assert cli("validate", "hello.yaml") == 0


@pytest.mark.parametrize("command", [("submit", "hello.yaml"), ("list",), ("show", "x"), ("cancel", "x"), ("hello.yaml", "--wait")])
def test_without_a_server_at_the_url_the_url_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    monkeypatch.setattr("mloc.services.intake.commands.log_session.PATIENCE_SEC", 0.1)
    monkeypatch.setattr("mloc.services.intake.submitter.PATIENCE_SEC", 0.1)
    monkeypatch.setenv("REDIS_URL", "redis://user:geheim@127.0.0.1:1")
    Path("hello.yaml").write_text(ECHO)
    assert cli(*command) == 3
    assert "127.0.0.1:1" in cli.err
    assert "geheim" not in cli.err


def test_a_log_that_is_lost_on_the_way_leaves_open_what_was_taken(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_: object, **__: object) -> None:
        raise LogUnavailable("the connection to the event log broke")

    monkeypatch.setattr("mloc.services.intake.submitter.PATIENCE_SEC", 0.1)
    monkeypatch.setattr("mloc.services.log.redis_log.RedisLog.try_each", lost)
    Path("hello.yaml").write_text(ECHO)
    assert cli("hello.yaml") == 3
    assert "nothing was submitted" not in cli.err
    assert "not known whether it was submitted: `mloc-intake list` shows it" in cli.err


def test_without_any_server_it_says_how_to_start_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL")
    Path("hello.yaml").write_text(ECHO)
    assert cli("hello.yaml") == 3
    assert "mloc up" in cli.err
    assert cli.json("list", code=3)["ok"] is False


@pytest.mark.parametrize(("variable", "value"), [("REDIS_URL", "http://x"), ("PORT", "many"), ("BACKLOG_LIMIT", "-1")])
def test_a_setting_that_cannot_be_used_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    assert cli("list") == 2
    assert variable in cli.err


@pytest.mark.parametrize("arguments", [(), ("--nope",), ("submit",), ("list", "--sort", "up"), ("list", "-n", "0"), ("list", "--state", "nope")])
def test_a_wrong_command_line_is_refused(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli(*arguments) == 2
    assert cli.err


def test_help_has_examples_and_the_exit_codes(cli: Cli) -> None:
    assert cli("--help") == 0
    assert "examples:" in cli.out
    assert "exit codes:" in cli.out
    for command in ("submit", "list", "show", "logs", "explain", "result", "cancel", "retry", "validate", "templates"):
        assert cli(command, "--help") == 0
        assert "example:" in cli.out


def test_a_task_is_found_by_id_by_its_start_and_by_name(cli: Cli) -> None:
    id = cli.submit_echo()
    for text in (id, id[:-3], "hello"):
        assert cli.json("show", text)["task_id"] == id
    assert cli("show", "helo") == 2
    assert 'did you mean "hello"?' in cli.err


def test_a_list_shows_the_newest_first_and_says_how_many_there_are(cli: Cli) -> None:
    assert cli("list") == 0
    assert "no tasks" in cli.out
    ids = [cli.submit_echo() for _ in range(3)]
    assert cli("list", "-n", "2") == 0
    assert cli.out.index(ids[2]) < cli.out.index(ids[1])
    assert "showing 2 of 3" in cli.out
    assert cli.json("list", "--state", "published")["total"] == 0


def test_a_result_is_printed_as_soon_as_it_is_published(cli: Cli) -> None:
    id = cli.submit_echo()
    assert cli("result", id) == 1
    assert "no result yet" in cli.err
    report = {"task": id, "attempt": 1, **WORKER}
    cli.append(WorkerRegistered(**WORKER, task_types=("echo",)), TaskDispatched(**report), AttemptSucceeded(**report, result=Raw(b'{"ok":true}')))
    cli.append(ResultPublished(task=id, attempt=1))
    assert cli.json("result", id) == {"ok": True}
    assert cli("cancel", id) == 4
    assert "published already" in cli.err


def test_waiting_says_where_the_result_is_and_does_not_claim_files_that_are_not_there(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mloc.services.intake.commands.log_source.TREE_PATIENCE_SEC", 0.05)
    Path("results").mkdir()
    monkeypatch.setenv("RESULTS_DIR", "results")
    Path("hello.yaml").write_text(ECHO)
    again = ("hello.yaml", "--idempotency-key", "k", "--wait")
    id = cli.json("submit", "hello.yaml", "--idempotency-key", "k")["task_id"]
    report = {"task": id, "attempt": 1, **WORKER}
    cli.append(WorkerRegistered(**WORKER, task_types=("echo",)), TaskDispatched(**report), AttemptSucceeded(**report, result=Raw(b'{"ok":true}')))
    cli.append(ResultPublished(task=id, attempt=1))
    assert cli(*again) == 0
    assert f"its files are not in {Path('results').resolve()} yet" in cli.out
    assert f"mloc-intake result {id}" in cli.out


def test_what_was_given_up_can_be_tried_again(cli: Cli) -> None:
    id = cli.submit_echo()
    assert cli("retry", id) == 4
    report, error = {"task": id, "attempt": 1, **WORKER}, Error("Boom", "it \x1b[31mbroke", retryable=False)
    cli.append(WorkerRegistered(**WORKER, task_types=("echo",)), TaskDispatched(**report), AttemptFailed(**report, error=error))
    cli.append(TaskDeadLettered(task=id, attempt=1, error=error))
    assert cli("list") == 0
    assert "dead lettered" in cli.out
    assert "\x1b" not in cli.out
    assert cli.json("result", id, code=1)["error"]["type"] == "Boom"
    assert cli("retry", id) == 0
    assert cli.log()[-1] == "RetryRequested"


def test_cancelling_asks_for_it_in_the_log_and_explain_says_why_it_waits(cli: Cli) -> None:
    id = cli.submit_echo()
    assert cli("explain", id) == 0
    assert "no worker is there" in cli.out
    assert cli("cancel", id, "--reason", "typo") == 0
    assert cli.log()[-1] == "CancelRequested"


def test_templates_are_listed_and_printed(cli: Cli) -> None:
    for template in cli.json("templates")["templates"]:
        assert template["title"], f"{template['name']} needs a comment with its title on its first line"
        assert not template["title"].endswith((".", ":"))  # one sentence, whole
        assert cli("templates", template["name"]) == 0
        assert "apiVersion: mloc/v1" in cli.out
        assert cli("validate", "--template", template["name"]) == 0, cli.err
    assert cli("submit", "--template", "nope") == 2
    assert "there is no template" in cli.err


def test_standard_input_is_a_file_too_and_a_closed_pipe_is_no_error(cli: Cli, tmp_path: Path) -> None:
    sent = subprocess.run([*CLI, "-"], input=ECHO, capture_output=True, text=True, timeout=60)
    assert (sent.returncode, sent.stderr.count("Traceback")) == (0, 0), sent.stderr
    listed = subprocess.run(f"{' '.join(CLI)} --help | head -1", shell=True, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in listed.stderr
    assert cli.log().count("TaskSubmitted") == 1


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_disk_for_its_output_is_said(cli: Cli, options: tuple[str, ...]) -> None:
    # given more to show than an output buffers
    Path("many.yaml").write_text("---\n".join([ECHO] * 60))
    assert cli("many.yaml") == 0
    # when it is shown where nothing can be written
    with Path("/dev/full").open("w") as full:
        shown = subprocess.run([*CLI, "list", "--all", *options], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    # then it says so, once
    assert shown.returncode == 1
    assert "No space left" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_name_cannot_drive_the_terminal(cli: Cli) -> None:
    Path("evil.yaml").write_text(ECHO.replace("name: hello", r'name: "a\e[31m\nb"'))
    id = cli.json("evil.yaml")["task_id"]
    for command in (("list",), ("show", id), ("explain", id)):
        assert cli(*command) == 0
        assert "\x1b" not in cli.out
