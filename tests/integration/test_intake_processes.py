"""Commands and API as real processes beside the real services: submitting, waiting, cancelling, interrupting, restarting."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from tests.integration.service_stack import DEADLINE_SEC, HEAD, Stack


def test_waiting_for_a_pipeline_ends_when_its_result_is_on_disk(stack: Stack) -> None:
    spec = "  data: {prompts: [a, b]}\n  stages: [{name: one}, {name: two, spec: {data: {prompts: ['${one.result.items[1].output}']}}}]\n"
    code, out, err = stack.intake("submit", stack.file("chain", spec), "--wait", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["ok"], answer["state"]) == (True, "published")
    two = answer["tasks"][1]["task_id"]
    assert json.loads((stack.folder / "results" / two / "responses.json").read_text())["items"][0]["output"] == "b"
    assert stack.http("GET", f"/api/v1/results/{two}")[1]["items"][0]["output"] == "b"


def test_a_task_that_fails_ends_the_waiting_with_its_error_and_code_1(stack: Stack) -> None:
    code, _, err = stack.intake("submit", stack.file("broken", "  data: {prompts: [a]}\n  echo: {fail: no good, retryable: false}\n"), "--wait")
    assert code == 1
    assert "no good" in err
    assert "mloc-intake retry broken-" in err


def test_interrupting_the_wait_leaves_the_task_running(stack: Stack) -> None:
    command = stack.start_intake("submit", stack.file("slow", "  data: {prompts: [a]}\n  echo: {sleep_sec: 30}\n"), "--wait")
    assert command.stdout is not None
    id = command.stdout.readline().split()[1]
    stack.until(lambda: stack.state_of(id) == "running")
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=DEADLINE_SEC)
    assert command.returncode == 130
    assert f"mloc-intake show {id}" in err
    assert "Traceback" not in err
    assert stack.state_of(id) == "running"

    assert stack.intake("cancel", id)[0] == 0
    stack.until(lambda: stack.state_of(id) == "cancelled")
    code, _, err = stack.intake("result", id)
    assert (code, "cancelled" in err) == (1, True)


def test_following_prints_the_log_lines_of_the_task(stack: Stack) -> None:
    code, _, err = stack.intake("submit", stack.file("talks", "  data: {prompts: [a]}\n  echo: {sleep_sec: 0.3}\n"), "--follow")
    assert code == 0
    assert "talks | " in err


def test_the_api_takes_a_port_in_use_for_what_it_is(stack: Stack) -> None:
    second = subprocess.run(
        (sys.executable, "-m", "mloc.services.command_line", "intake-api"), env=stack.environ, cwd=stack.folder, capture_output=True, text=True,
        timeout=DEADLINE_SEC,
    )  # fmt: skip
    assert second.returncode == 78
    assert f"port {stack.port}" in second.stderr
    assert "set PORT" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_killed_api_loses_nothing_and_a_stopped_one_ends_cleanly(stack: Stack) -> None:
    text = HEAD.format(name="kept") + "  data: {prompts: [a]}\n"
    status, answer = stack.http("POST", "/api/v1/tasks", text)
    assert status == 201
    stack.services["intake-api"].kill()
    stack.services["intake-api"].wait(DEADLINE_SEC)
    stack.start("intake-api")
    stack.until(lambda: stack.http("GET", "/readyz")[0] == 200)
    stack.until(lambda: stack.state_of(answer["task_id"]) == "published")
    stack.services["intake-api"].terminate()
    assert stack.services["intake-api"].wait(DEADLINE_SEC) == 0
    stack.start("intake-api")
    stack.until(lambda: stack.http("GET", "/readyz")[0] == 200)
