"""`mloc-intake --url`: the same answers and exit codes over an API as beside the event log."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from aiohttp import web
from msgspec import Raw

from mloc.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    Error,
    Need,
    ResultPublished,
    TaskDeadLettered,
    TaskDispatched,
    TaskSubmitted,
    WorkerRegistered,
)
from tests.services.intake.conftest import ECHO, PIPELINE, WORKER, Cli
from tests.services.intake.served import Served, app_of


def finish(cli: Cli, id: str) -> None:
    report = {"task": id, "attempt": 1, **WORKER}
    cli.append(WorkerRegistered(**WORKER, task_types=("echo",)), TaskDispatched(**report))
    cli.append(AttemptSucceeded(**report, result=Raw(b'{"ok":true}')), ResultPublished(task=id, attempt=1))


def give_up(cli: Cli, id: str) -> None:
    report, error = {"task": id, "attempt": 1, **WORKER}, Error("Boom", "it broke", retryable=False)
    cli.append(WorkerRegistered(**WORKER, task_types=("echo",)), TaskDispatched(**report), AttemptFailed(**report, error=error))
    cli.append(TaskDeadLettered(task=id, attempt=1, error=error))


def seen(cli: Cli, remote: Served, id: str, state: str) -> None:
    """The API's fold follows the log."""
    deadline = time.monotonic() + 20
    while cli.json("show", id, "--url", remote.url)["state"] != state:
        assert time.monotonic() < deadline


def test_every_read_gives_the_same_json_over_the_api_as_beside_the_log(cli: Cli, remote: Served) -> None:
    Path("chain.yaml").write_text(PIPELINE)
    done, failed, open_ = cli.submit_echo(), cli.submit_echo(), cli.json("chain.yaml")["task_id"]
    finish(cli, done)
    give_up(cli, failed)
    seen(cli, remote, failed, "dead_lettered")
    for command in (
        ("list",), ("list", "--all", "--sort", "oldest"), ("list", "--state", "published"), ("show", done), ("show", open_), ("show", "hello"),
        ("explain", open_), ("explain", failed), ("logs", done), ("result", done), ("submit", "chain.yaml", "--dry-run"),
    ):  # fmt: skip
        here = (cli(*command, "--json"), cli.out)
        assert (cli(*command, "--json", "--url", remote.url), cli.out) == here, command
        here = (cli(*command), cli.out.replace(f"mloc-intake result {done}", ""))
        assert cli(*command, "--url", remote.url) == here[0], command
        assert "Traceback" not in cli.err
    for command in (("result", failed), ("result", open_), ("show", "nobody"), ("list", "--state", "nope"), ("list", "--since", "then")):
        here = (cli(*command, "--json"), cli.out)
        there = (cli(*command, "--json", "--url", remote.url), cli.out.replace(f" --url {remote.url}", ""))
        assert there == here, command


def test_a_task_is_found_by_its_name_and_by_the_start_of_its_id_however_many_came_after_it(cli: Cli, remote: Served) -> None:
    old = cli.submit_echo()
    later = {"name": "later", "task_type": "echo", "need": Need("echo", light=True), "spec": Raw(b"{}")}
    cli.append(*(TaskSubmitted(task=f"later-{number}", **later) for number in range(10_001)))
    deadline = time.monotonic() + 20
    while cli("show", "later-10000", "--url", remote.url) != 0:
        assert time.monotonic() < deadline
    for text in ("hello", old[:-1]):
        assert cli.json("show", text, "--url", remote.url)["task_id"] == old
    assert cli("show", "later-1000", "--url", remote.url) == 0
    unknown = {"later-": "is the start of at least 21 ids", "latr": 'did you mean "later"?', "?": f"`mloc-intake list --url {remote.url}`"}
    for text, said in unknown.items():
        assert cli("show", text, "--url", remote.url) == 2
        assert said in cli.err


def test_a_submission_over_the_api_has_the_same_answer_and_repeating_it_gives_the_first_tasks(cli: Cli, remote: Served) -> None:
    Path("chain.yaml").write_text(PIPELINE)
    here = cli.json("chain.yaml")
    there = cli.json("chain.yaml", "--url", remote.url, "--idempotency-key", "k")
    assert set(there) == set(here)
    assert [task["name"] for task in there["tasks"]] == [task["name"] for task in here["tasks"]]
    assert [set(task) for task in there["tasks"]] == [set(task) for task in here["tasks"]]
    again = cli.json("chain.yaml", "--url", remote.url, "--idempotency-key", "k")
    assert (again["task_ids"], again["repeated"]) == (there["task_ids"], True)
    Path("chain.yaml").write_text(PIPELINE + "  timeout_sec: 3\n")
    assert cli("chain.yaml", "--url", remote.url, "--idempotency-key", "k") == 4
    assert cli.log().count("TaskSubmitted") == 6


def test_values_that_are_set_and_relative_paths_reach_the_api(cli: Cli, remote: Served) -> None:
    Path("rows.jsonl").write_text('{"prompt": "a"}\n')
    Path("task.yaml").write_text(ECHO.replace("{prompts: [a, b]}", "{jsonl: {path: rows.jsonl}}"))
    assert cli("task.yaml", "--no-upload", "--url", remote.url, "--set", "metadata.name=other") == 0, cli.err
    assert "the workers must see it there" in cli.err
    shown = cli.json("show", "other", "--url", remote.url)
    assert shown["spec"]["data"]["path"] == str(Path("rows.jsonl").resolve())
    Path("task.yaml").write_text(ECHO.replace("{prompts: [a, b]}", "{jsonl: {path: not-here.jsonl}}"))
    assert cli("task.yaml", "--no-upload", "--url", remote.url) == 0  # the workers' disks are others
    assert "not-here.jsonl" in cli.err


def test_a_dependency_that_only_the_api_can_refuse_is_an_error_of_the_file(cli: Cli, remote: Served) -> None:
    Path("bad.yaml").write_text(ECHO + "  dependsOn: [nobody]\n")
    answer = cli.json("bad.yaml", "--url", remote.url, code=2)
    assert answer["error"]["problems"][0]["path"] == "spec.dependsOn"
    assert cli.log() == []


def test_requests_of_people_go_over_the_api(cli: Cli, remote: Served) -> None:
    id, failed = cli.submit_echo(), cli.submit_echo()
    assert cli.json("cancel", id, "--reason", "typo", "--url", remote.url)["state"] == "ready"
    assert cli.log()[-1] == "CancelRequested"
    give_up(cli, failed)
    seen(cli, remote, failed, "dead_lettered")
    assert cli("retry", failed, "--url", remote.url) == 0, cli.err
    assert cli.log()[-1] == "RetryRequested"
    done = cli.submit_echo()
    finish(cli, done)
    seen(cli, remote, done, "published")
    assert cli("cancel", done, "--url", remote.url) == 4
    assert "published already" in cli.err


def test_waiting_over_the_api_ends_with_the_task_and_its_result(cli: Cli, remote: Served) -> None:
    Path("hello.yaml").write_text(ECHO)
    id = cli.json("hello.yaml", "--idempotency-key", "k", "--url", remote.url)["task_id"]
    finish(cli, id)
    answer = cli.json("hello.yaml", "--idempotency-key", "k", "--wait", "--url", remote.url)
    assert (answer["state"], answer["result"]) == ("published", {"ok": True})
    assert cli("hello.yaml", "--idempotency-key", "k", "--wait", "--url", remote.url) == 0
    assert f"mloc-intake result {id} --url {remote.url}" in cli.out
    assert "published" in cli.err
    assert "\x1b" not in cli.err


@pytest.mark.parametrize("has_streams", [True, False])
def test_waiting_ends_when_the_task_does_with_and_without_a_stream_of_events(
    cli: Cli, remote: Served, monkeypatch: pytest.MonkeyPatch, has_streams: bool
) -> None:
    if has_streams:
        monkeypatch.setattr("mloc.services.intake.commands.api_source.LOOK_ANYHOW_SEC", 600.0)  # only an event ends the waiting
        monkeypatch.setattr("mloc.services.intake.commands.api_source.LOOK_SEC", 600.0)
    else:
        monkeypatch.setattr("mloc.services.intake.commands.api_source.MOST_FOLLOWED", 0)
    Path("chain.yaml").write_text(ECHO)
    again = ("chain.yaml", "--idempotency-key", "k", "--url", remote.url)
    id = cli.json(*again)["task_id"]
    finishing = threading.Timer(1.0, finish, (cli, id))
    finishing.start()
    assert cli(*again, "--wait") == 0, cli.err
    finishing.join()
    assert "ready" in cli.err
    assert f"{id}: done" in cli.out


def test_an_api_that_goes_away_while_one_waits_is_waited_for(cli: Cli) -> None:
    asked: list[str] = []
    task = {"task_id": "t-1", "name": "t", "parent": None, "children": [], "stage": None, "reason": "", "worker_id": None, "attempts": 0,
            "submitted_at": "2027-01-15T08:00:00.000Z", "started_at": None, "ended_at": "2027-01-15T08:00:01.000Z"}  # fmt: skip

    async def get(request: web.Request) -> web.Response:
        asked.append(request.path)
        if 2 <= len(asked) <= 5:
            error = {"code": "log_unavailable" if len(asked) % 2 else "too_many_requests", "message": "not now", "path": "", "hint": ""}
            return web.json_response({"ok": False, "error": error}, status=503 if len(asked) % 2 else 429)
        return web.json_response({"ok": True, **task, "state": "published" if len(asked) > 5 else "ready", "tasks": [], "spec": None})

    async def post(request: web.Request) -> web.Response:
        return web.json_response({"ok": True, "tasks": [task], "warnings": []}, status=201)

    Path("hello.yaml").write_text(ECHO)
    with Served(app_of({("POST", "/api/v1/tasks"): post, ("GET", "/api/v1/tasks/{id}"): get})) as served:
        assert cli("hello.yaml", "--wait", "--url", served.url) == 0, cli.err
    assert "t-1: done in 1.0s" in cli.out


def test_files_of_a_result_are_listed_and_fetched_in_both_modes(cli: Cli, remote: Served, tmp_path: Path) -> None:
    id = cli.submit_echo()
    finish(cli, id)
    seen(cli, remote, id, "published")
    folder = tmp_path / "results" / id
    (folder / "artifacts").mkdir(parents=True)
    (folder / "artifacts" / "weights.bin").write_bytes(b"w" * 1_000_000)
    manifest = {"task_id": id, "ok": True, "attempt": 1, "files": [{"path": "artifacts/weights.bin", "size": 1_000_000, "sha256": "0" * 64}]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for number, mode in enumerate(((), ("--url", remote.url))):
        assert cli.json("result", id, "--files", *mode)["files"] == manifest["files"]
        assert cli("result", id, "--files", *mode) == 0
        assert "artifacts/weights.bin" in cli.out
        to = tmp_path / f"got{number}"
        to.mkdir()
        assert cli("result", id, "--file", "artifacts/weights.bin", "--to", str(to), *mode) == 0, cli.err
        assert (to / "weights.bin").read_bytes() == b"w" * 1_000_000
        assert [file.name for file in to.iterdir()] == ["weights.bin"]
        assert cli("result", id, "--file", "nothing", "--to", str(to), *mode) == 2
        assert cli("result", id, "--file", "../../x", "--to", str(to), *mode) == 2


def test_the_log_comes_before_orchestrator_url_and_an_url_on_the_command_line_before_both(
    cli: Cli, remote: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = cli.submit_echo()
    seen(cli, remote, id, "ready")
    monkeypatch.setenv("ORCHESTRATOR_URL", "http://127.0.0.1:1")
    assert cli.json("list")["tasks"][0]["task_id"] == id
    assert cli.json("list", "--url", remote.url + "/")["tasks"][0]["task_id"] == id
    monkeypatch.delenv("REDIS_URL")
    monkeypatch.setenv("ORCHESTRATOR_URL", remote.url)
    assert cli.json("list")["tasks"][0]["task_id"] == id
