"""`mloc-intake --url` where the API is not as it should be: clear lines, and nothing submitted twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.services.intake.conftest import ECHO, Cli
from tests.services.intake.served import Served, app_of


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_missing_or_wrong_token_is_said_and_never_shown(cli: Cli, remote: Served, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("ORCHESTRATOR_TOKEN", token)
    assert cli("list", "--url", remote.url) == 2
    assert "ORCHESTRATOR_TOKEN" in cli.err
    assert "wrong" not in cli.err.replace("missing or wrong", "")


@pytest.mark.parametrize(
    ("url", "said"),
    [("localhost:8000", "did you mean http://localhost:8000?"), ("ftp://x", "http://host:port"), ("http://u:p@x", "ORCHESTRATOR_TOKEN"), ("", "http://")],
)
def test_an_url_that_cannot_be_one_is_refused(cli: Cli, url: str, said: str) -> None:
    assert cli("list", "--url", url) == 2
    assert said in cli.err
    assert "u:p" not in cli.err.partition("not ")[0]


def test_where_nobody_listens_the_url_is_named_after_some_tries(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mloc.services.intake.commands.api_client.CONNECT_PATIENCE_SEC", 0.6)
    Path("hello.yaml").write_text(ECHO)
    for command in (("list",), ("hello.yaml",), ("cancel", "x")):
        assert cli(*command, "--url", "http://127.0.0.1:1") == 3
        assert "http://127.0.0.1:1 cannot be reached" in cli.err
        assert "trying again" in cli.err


async def html(_: web.Request) -> web.Response:
    return web.Response(text="<html>hello</html>", content_type="text/html")


async def moved(_: web.Request) -> web.Response:
    return web.Response(status=301, headers={"Location": "https://elsewhere/"})


async def older(request: web.Request) -> web.Response:
    error = {"code": "not_found", "message": f"there is nothing at {request.path}", "path": "", "hint": ""}
    return web.json_response({"ok": False, "error": error}, status=404)


@pytest.mark.parametrize(("handler", "said"), [(html, "does not answer as MLOC's API does"), (moved, "https://elsewhere/"), (older, "older")])
def test_what_is_no_api_of_ours_is_said(cli: Cli, handler: Any, said: str) -> None:
    with Served(app_of({("GET", "/api/v1/tasks"): handler})) as served:
        assert cli("list", "--url", served.url) == 2
    assert said in cli.err


@pytest.mark.parametrize("trouble", ["busy", "full", "lost"])
def test_a_submission_is_sent_again_under_one_key_until_it_is_answered(cli: Cli, trouble: str) -> None:
    keys: list[str] = []

    async def post(request: web.Request) -> web.StreamResponse:
        await request.read()
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) < 3:
            if trouble == "lost":
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            error = {"code": "x", "message": "come back later", "path": "", "hint": ""}
            return web.json_response({"ok": False, "error": error}, status=503 if trouble == "busy" else 429, headers={"Retry-After": "0"})
        task = {"task_id": "t-1", "name": "t", "parent": None}
        return web.json_response({"ok": True, "task_id": "t-1", "task_ids": ["t-1"], "tasks": [task], "warnings": []}, status=201)

    Path("hello.yaml").write_text(ECHO)
    with Served(app_of({("POST", "/api/v1/tasks"): post})) as served:
        assert cli("hello.yaml", "--url", served.url) == 0, cli.err
    assert (len(keys), len(set(keys))) == (3, 1)
    assert "trying again" in cli.err
    assert "submitted t-1" in cli.out


def test_a_backlog_that_stays_full_is_a_refusal_and_nothing_was_submitted(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    async def post(request: web.Request) -> web.Response:
        error = {"code": "backlog_full", "message": "1,000 tasks are not finished yet", "path": "", "hint": ""}
        return web.json_response({"ok": False, "error": error}, status=429, headers={"Retry-After": "5"})

    monkeypatch.setattr("mloc.services.intake.commands.api_client.BUSY_PATIENCE_SEC", 0.1)
    Path("hello.yaml").write_text(ECHO)
    with Served(app_of({("POST", "/api/v1/tasks"): post})) as served:
        assert cli("hello.yaml", "--url", served.url) == 4
    assert "not finished yet" in cli.err
    assert "nothing was submitted" in cli.err
