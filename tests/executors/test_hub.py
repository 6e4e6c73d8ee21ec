"""A hub that cannot be reached is known at once, and said with what helps; one that answers is asked again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driven_host import DrivenHost, task

from mloc.core.host_frames import Failed
from mloc.executors.models import hub

httpx = pytest.importorskip("huggingface_hub.utils", reason="the hub's library is not installed (mloc[inference])").httpx
pytestmark = pytest.mark.models
MODEL = {"source": {"type": "huggingface", "identifier": "org/model"}}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_away", {})
    monkeypatch.setattr(hub, "PAUSE_SEC", 0.0)
    monkeypatch.setattr(hub, "PATIENCE_SEC", -1.0)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def sent(request: Any, answer: Callable[[], Any]) -> tuple[int, Any]:
    """(how often it went out, what came of it)."""
    tries = []

    def send(request: Any) -> Any:
        tries.append(request)
        return answer()

    try:
        came = hub._sent(send, request, {})
    except Exception as error:
        came = error
    return len(tries), came


def fail(error: Exception) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


def test_a_host_without_a_connection_is_asked_for_one_file_and_not_for_the_next() -> None:
    no_name = fail(httpx.ConnectError("Name or service not known"))
    tries, error = sent(httpx.Request("HEAD", "https://hub.test/a"), no_name)
    assert (tries, type(error).__name__) == (1, "OfflineModeIsEnabled")
    assert sent(httpx.Request("HEAD", "https://hub.test/b"), no_name)[0] == 0
    assert sent(httpx.Request("HEAD", "https://other.test/b"), lambda: "here") == (1, "here")


def test_a_host_that_is_away_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PATIENCE_SEC", 60.0)
    answers = iter([fail(httpx.ConnectError("refused")), fail(httpx.ConnectTimeout("slow")), lambda: "here"])
    assert sent(httpx.Request("GET", "https://hub.test/a"), lambda: next(answers)()) == (3, "here")


def test_one_that_takes_connections_and_says_nothing_is_away_too_but_a_download_goes_on() -> None:
    silent = fail(httpx.ReadTimeout("timed out"))
    assert type(sent(httpx.Request("GET", "https://hub.test/weights"), silent)[1]).__name__ == "ReadTimeout"
    assert type(sent(httpx.Request("HEAD", "https://hub.test/weights"), silent)[1]).__name__ == "OfflineModeIsEnabled"


def test_a_connection_has_few_seconds_whatever_the_library_gives_it() -> None:
    request = httpx.Request("HEAD", "https://hub.test/a", extensions={"timeout": {"connect": 60, "read": 60}})
    sent(request, lambda: "here")
    assert request.extensions["timeout"] == {"connect": hub.CONNECT_SEC, "read": 60}


@pytest.mark.parametrize(("status", "type_"), [(503, "HubBusy"), (429, "HubBusy"), (404, None), (401, None)])
def test_an_answer_that_may_pass_is_a_reason_to_try_again(status: int, type_: str | None) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    error = OSError("there was a specific connection error")
    error.__cause__ = HfHubHTTPError("no", response=httpx.Response(status, request=httpx.Request("HEAD", "https://hub.test/a")))
    said = hub.hub_trouble("org/model", error)
    assert (said.type if said else None) == type_
    assert said is None or (said.retryable and str(status) in said.message)


def failures(endpoint: str, folder: Path, *asked: tuple[str, dict[str, Any]]) -> list[Any]:
    host = DrivenHost(environ={"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home")})
    try:
        errors = []
        for number, (kind, given) in enumerate(asked):
            host.send(task(f"t{number}", kind, folder, **given))
            errors.append(host.wait_of(Failed, f"t{number}").error)
        return errors
    finally:
        host.close()


@pytest.mark.deep
def test_a_task_says_that_its_hub_was_not_reached_within_seconds_and_what_helps(tmp_path: Path) -> None:
    scratch = {"source": {"type": "scratch", "tokenizer_text": ["a"]}}
    rows = {"type": "list", "items": [{"query": "a", "documents": ["b"]}]}
    of_hub = {"type": "dataset", "identifier": "org/rows"}
    errors = failures(
        "http://hub.invalid", tmp_path, ("inference", {"model": MODEL, "data": {"type": "list", "items": ["a"]}}),
        ("rerank", {"model": MODEL, "data": rows}), ("sft", {"model": scratch, "data": of_hub}),
        ("ppo", {"model": scratch, "data": {"type": "list", "items": ["a"]}, "reward_model": {"identifier": "org/model"}}),
    )  # fmt: skip
    assert [(error.type, error.retryable) for error in errors] == [("HubUnreachable", True)] * 4
    for error in errors:
        assert all(word in error.message for word in ("http://hub.invalid", "HF_HUB_OFFLINE=1", "HF_ENDPOINT", "type local"))
    assert "'org/rows'" in errors[2].message
