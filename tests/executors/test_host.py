"""The host as its worker sees it: frames in, frames out, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from driven_host import DrivenHost, is_gone, task, wait_until

from mloc.core.host_frames import Failed, Go, HostReady, Quit, Stopped, Succeeded, Telemetry

StartHost = Callable[..., DrivenHost]
ECHO = {"data": {"type": "list", "items": ["one", {"prompt": "two"}, [{"role": "user", "content": "three"}]]}}


@pytest.mark.parametrize("light", [True, False])
def test_an_echo_comes_back_with_its_items_in_order(host: StartHost, light: bool, tmp_path: Path) -> None:
    driven = host(light=light)
    driven.send(task("a", folder=tmp_path, **ECHO))
    result = json.loads(driven.wait_of(Succeeded, "a").result)
    assert [item["output"] for item in result["items"]] == ["one", "two", "three"]
    assert result["ok"]
    assert result["usage"]["num_requests"] == 3
    assert list(tmp_path.iterdir()) == []  # nothing was written


def test_an_echo_of_a_file_gives_its_rows_and_tells_what_is_wrong_with_it(host: StartHost, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "one"}\n{"text": "two"}\n{"x": 3}\n')
    (tmp_path / "broken.jsonl").write_text('{"prompt": "one"}\nno json\n')
    driven = host()
    driven.send(
        task("rows", data={"type": "jsonl", "path": str(tmp_path / "rows.jsonl")}),
        task("broken", data={"type": "jsonl", "path": str(tmp_path / "broken.jsonl")}),
    )
    result = json.loads(driven.wait_of(Succeeded, "rows").result)
    assert [item["output"] for item in result["items"]] == ["one", "two", '{"x":3}']
    first, second = json.loads(driven.wait_of(Succeeded, "broken").result)["items"]
    assert first["output"] == "one"
    assert second["error"]["type"] == "BadRow"
    assert "broken.jsonl, line 2: not JSON" in second["error"]["message"]


def test_rows_are_exported_as_a_training_set_among_the_artifacts(host: StartHost, tmp_path: Path) -> None:
    export = {"path": "train/rows.jsonl", "fields": {"q": {"from": "prompt"}, "a": {"from": "metadata", "key": "answer"}}, "required_fields": ["a"]}
    items = [{"prompt": "one", "metadata": {"answer": "1"}}, {"prompt": "two"}, {"prompt": "three", "metadata": {"answer": "3"}}]
    driven = host()
    driven.send(task("made", folder=tmp_path, data={"type": "list", "items": items}, postprocess={"jsonl_export": export}))
    ended = driven.wait_of(Succeeded, "made")
    assert ended.files
    folder = tmp_path / ".attempts" / "made" / "1"
    said = json.loads((folder / "responses.json").read_bytes())["jsonl_export"]
    name = "artifacts/train/rows.jsonl"
    assert said == {"path": str(tmp_path / "made" / name), "url": f"/api/v1/results/made/files/{name}", "rows": 2, "skipped": 1}
    assert [json.loads(line) for line in (folder / name).read_text().splitlines()] == [{"q": "one", "a": "1"}, {"q": "three", "a": "3"}]


def test_a_batch_of_light_tasks_is_answered_in_order_also_where_some_fail(host: StartHost) -> None:
    driven = host(light=True)
    names = [f"t{i}" for i in range(500)]
    driven.send(*(task(name, **ECHO, **({"echo": {"fail": "no luck"}} if name == "t7" else {})) for name in names))
    driven.wait_of(Succeeded, "t499")
    answers = driven.frames[1:]
    assert [frame.task for frame in answers] == names
    assert [frame.task for frame in answers if isinstance(frame, Failed)] == ["t7"]
    assert driven.wait_of(Failed).error.message == "no luck"


def test_more_than_the_pipes_hold_goes_through_while_nobody_reads(host: StartHost) -> None:
    driven = host(light=True)
    text = "x" * 20_000
    for i in range(100):  # 2 MB in before the first byte of an answer is read
        driven.send(task(f"t{i}", data={"type": "list", "items": [text]}))
    assert json.loads(driven.wait_of(Succeeded, "t99").result)["items"][0]["output"] == text


@pytest.mark.parametrize("light", [True, False])
def test_nothing_runs_before_go(host: StartHost, light: bool) -> None:
    driven = host(light=light, go=False)
    assert driven.ready().pid == driven.child.pid
    driven.send(task("a", **ECHO))
    driven.send(Go())
    driven.wait_of(Succeeded, "a")
    assert [type(frame) for frame in driven.frames] == [HostReady, Succeeded]


def test_a_shard_does_its_contiguous_range_and_keeps_the_global_index(host: StartHost) -> None:
    driven = host(light=True)
    items = {"data": {"type": "list", "items": list("abcdefg")}}
    driven.send(*(task(f"t.s{i}", run_shard=(i, 3), **items) for i in range(3)))
    parts = [json.loads(driven.wait_of(Succeeded, f"t.s{i}").result)["items"] for i in range(3)]
    assert [(item["index"], item["output"]) for part in parts for item in part] == list(enumerate("abcdefg"))


def test_a_failure_says_type_message_and_whether_a_retry_can_help_and_the_host_goes_on(host: StartHost) -> None:
    driven = host()
    driven.send(
        task("failing", echo={"fail": "no luck", "fail_times": 2, "retryable": False}),
        task("luckier", attempt=3, echo={"fail": "no luck", "fail_times": 2}),
        task("unknown", task_type="no_such_type"),
        task("broken", data={"type": 7}),
    )
    assert driven.wait_of(Failed, "failing").error.retryable is False
    driven.wait_of(Succeeded, "luckier")
    assert "echo" in driven.wait_of(Failed, "unknown").error.message
    assert driven.wait_of(Failed, "broken").error.type == "BadSpec"


def test_a_stop_ends_a_running_task_at_its_next_step_and_a_waiting_one_before_it_begins(host: StartHost) -> None:
    driven = host()
    driven.send(task("long", echo={"sleep_sec": 60}), task("waiting", echo={"sleep_sec": 60}))
    driven.wait_of(Telemetry, "long")
    driven.stop("waiting")
    driven.stop("long")
    driven.wait_of(Stopped, "waiting")
    assert [frame.task for frame in driven.frames if isinstance(frame, Stopped)] == ["long", "waiting"]
    driven.send(task("next", **ECHO))
    driven.wait_of(Succeeded, "next")


def test_sigterm_does_not_end_a_host_that_works(host: StartHost) -> None:
    driven = host()
    driven.ready()
    driven.send(task("a", echo={"sleep_sec": 1.5}))
    driven.wait_of(Telemetry, "a")  # after a second
    os.kill(driven.child.pid, signal.SIGTERM)
    driven.wait_of(Succeeded, "a")


def test_a_crash_ends_the_host_and_its_pipe(host: StartHost) -> None:
    driven = host()
    driven.send(task("a", echo={"crash": True}))
    with pytest.raises(EOFError):
        driven.wait_of(Succeeded, "a")
    assert driven.child.wait(10) == -signal.SIGABRT


@pytest.mark.parametrize("light", [True, False])
def test_quit_lets_the_host_finish_what_it_has(host: StartHost, light: bool) -> None:
    driven = host(light=light)
    driven.send(task("a", **ECHO), Quit())
    driven.wait_of(Succeeded, "a")
    assert driven.child.wait(10) == 0


@pytest.mark.parametrize("light", [True, False])
def test_the_end_of_the_pipe_kills_the_host_at_once(host: StartHost, light: bool) -> None:
    driven = host(light=light)
    driven.ready()
    driven.send(task("a", echo={"sleep_sec": 60, "ignore_stop": True}))
    driven.close_pipe()
    assert driven.child.wait(10) == -signal.SIGKILL


PLUGIN = '''
import ctypes, json, pathlib, subprocess, sys, time
from mloc.executors.contract import Progress

def run(task, engine, context):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield Progress(lines=(str(child.pid),))
    spec = json.loads(task.spec)
    if "hold" in spec:
        sleep = ctypes.PyDLL(None).sleep  # a call into C that keeps the interpreter's lock
        while not pathlib.Path(spec["hold"]).exists():  # until the report above was read
            time.sleep(0.01)
        pathlib.Path(spec["hold"]).unlink()
        sleep(600)
    time.sleep(600)
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in as an installed distribution would bring it: a module and its entry point, on the path."""
    (tmp_path / "a_plugin.py").write_text(PLUGIN)
    metadata = tmp_path / "a_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: a-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[mloc.executors]\nspawning = a_plugin:run\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("holds_lock", [False, True])
def test_what_an_executor_started_dies_with_the_pipe_even_while_a_library_holds_the_interpreter(
    host: StartHost, tmp_path: Path, holds_lock: bool
) -> None:
    driven = host()
    hold = tmp_path / "hold"
    driven.send(task("a", task_type="spawning", **({"hold": str(hold)} if holds_lock else {})))
    grandchild = int(driven.wait_of(Telemetry, "a").lines[0])
    if holds_lock:
        hold.touch()
        wait_until(lambda: not hold.exists())
    driven.close_pipe()
    driven.child.wait(10)
    wait_until(lambda: is_gone(grandchild))


@pytest.mark.usefixtures("plugin")
def test_what_an_executor_started_dies_with_a_host_that_is_killed(host: StartHost) -> None:
    driven = host()
    driven.send(task("a", task_type="spawning"))
    grandchild = int(driven.wait_of(Telemetry, "a").lines[0])
    os.kill(driven.child.pid, signal.SIGKILL)
    driven.child.wait(10)
    wait_until(lambda: is_gone(grandchild))


PARENT = """
import sys, time
sys.path[:0] = {path!r}
from driven_host import DrivenHost, task
hosts = [DrivenHost(), DrivenHost(light=True)]
for one in hosts:
    one.ready()
hosts[0].send(task("a", echo={{"sleep_sec": 600, "ignore_stop": True}}))
print(*(one.child.pid for one in hosts), flush=True)
time.sleep(600)
"""


def test_no_host_outlives_a_worker_that_is_killed() -> None:
    path = [str(Path(__file__).parent), *sys.path]
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(path=path)], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: all(map(is_gone, pids)))
