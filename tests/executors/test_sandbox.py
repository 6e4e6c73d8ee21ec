"""Code that a user or a model wrote, in the sandbox: it works, and what it must not do it cannot."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from driven_host import is_gone, wait_until

from mloc.executors.sandbox import Limits, Sandbox

PLENTY = Limits(call_sec=60)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(PLENTY) as one:
        yield one


def test_names_stay_and_the_last_expression_is_shown(sandbox: Sandbox) -> None:
    assert sandbox.run("x = 6 * 7\nprint('counted')").output == "counted\n"
    assert sandbox.run("x").output == "42\n"


def test_a_function_is_called_with_json_and_gives_json(sandbox: Sandbox) -> None:
    sandbox.run("def both(a, *, b): return {'a': a, 'b': b}")
    assert sandbox.call("both", [1, "ü"], b=None).value == {"a": [1, "ü"], "b": None}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("y = 1\nz = y / 0", "ZeroDivisionError: division by zero (line 2)"), ("x = (", "SyntaxError"), ("raise SystemExit(3)", "SystemExit: 3"),
        ("nothing_of_this_name", "NameError"), ("bytearray(16 << 30)", "MemoryError: more memory than is allowed"), ("input()", "EOFError"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_line_with_its_place(sandbox: Sandbox, code: str, said: str) -> None:
    answer = sandbox.run(code)
    assert said in answer.error
    assert not answer.lost


def test_a_value_that_is_not_json_is_an_error(sandbox: Sandbox) -> None:
    sandbox.run("def thing(): return object()")
    assert "object is not JSON" in sandbox.call("thing").error
    assert "there is no function 'other'" in sandbox.call("other").error


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces and Landlock are Linux's")
def test_the_folder_is_empty_and_its_own_and_other_files_are_out_of_reach(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("token")
    assert sandbox.run("import os; open('mine', 'w').write('1'); os.listdir('.')").output == "['mine']\n"
    if "Landlock" not in sandbox.isolation["files"]:
        pytest.skip(sandbox.isolation["files"])
    assert "PermissionError" in sandbox.run(f"open({str(secret)!r}).read()").error
    assert "PermissionError" in sandbox.run(f"open({str(tmp_path / 'new')!r}, 'w')").error
    assert "PermissionError" in sandbox.run(f"open('/proc/{os.getpid()}/environ').read()").error


def test_a_folder_that_is_given_stays_and_paths_that_are_named_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "other").write_text("to read")
    with Sandbox(PLENTY, folder=tmp_path / "own", readable=(tmp_path / "other",)) as sandbox:
        assert sandbox.run(f"open('copy', 'w').write(open({str(tmp_path / 'other')!r}).read())").ok
    assert (tmp_path / "own" / "copy").read_text() == "to read"


def test_nothing_of_our_environment_is_there(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_TOKEN", "very-secret")
    with Sandbox(PLENTY) as fresh:
        shown = fresh.run("import os; sorted(os.environ)").output
    assert "PATH" in shown
    assert "TOKEN" not in shown
    assert "PYTHONPATH" not in shown


def test_there_is_no_network_unless_it_is_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        knock = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 10).close()"
        with Sandbox(PLENTY) as closed:
            assert closed.isolation["network"] != "allowed"
            assert closed.run(knock).error
        with Sandbox(Limits(call_sec=60, network=True)) as open_one:
            assert open_one.isolation["network"] == "allowed"
            assert open_one.run(knock).error == ""


def test_one_that_takes_too_long_is_ended_and_the_next_call_has_a_new_child() -> None:
    with Sandbox(PLENTY) as sandbox:
        sandbox.run("kept = 1")
        late = sandbox.run("print('so far')\nwhile True: pass", timeout_sec=0.5)
        assert (late.error, late.lost, late.output) == ("it took longer than 0.5 s", True, "so far\n")
        assert "NameError" in sandbox.run("kept").error


def test_one_that_is_asked_to_stop_is_ended() -> None:
    asked = threading.Event()
    with Sandbox(PLENTY, stopping=asked.is_set) as sandbox:
        threading.Timer(0.3, asked.set).start()
        assert sandbox.run("while True: pass").error == "it was stopped"


def test_a_crash_ends_only_the_child_and_says_how() -> None:
    with Sandbox(PLENTY) as sandbox:
        died = sandbox.run("import os; os.abort()")
        assert (died.error, died.lost) == ("its process ended (SIGABRT)", True)
        assert sandbox.run("1 + 1").output == "2\n"


def test_a_fork_of_the_code_answers_nothing() -> None:
    with Sandbox(PLENTY) as sandbox:
        sandbox.run("import os; pid = os.fork()")
        assert sandbox.run("5").output == "5\n"


def test_what_is_printed_is_cut_and_that_of_programs_belongs_to_it() -> None:
    with Sandbox(Limits(call_sec=60, output_chars=20)) as sandbox:
        assert sandbox.run("print('x' * 1000)").output == "x" * 20 + "\n[cut after 20 characters]"
        if "namespace" in sandbox.isolation["network"]:
            assert sandbox.run("import os; os.system('echo shell')").output == "shell\n0\n"


def test_files_have_a_limit() -> None:
    with Sandbox(Limits(call_sec=60, files_bytes=1 << 20)) as sandbox:
        assert "OSError" in sandbox.run("f = open('big', 'wb', 0)\nfor _ in range(3): f.write(b'0' * (1 << 20))").error


def test_everything_that_was_started_ends_with_it(tmp_path: Path) -> None:
    with Sandbox(PLENTY, folder=tmp_path, readable=(Path("/proc"),)) as sandbox:
        if "namespace" not in sandbox.isolation["network"]:
            pytest.skip(sandbox.isolation["network"])
        started = sandbox.run("import subprocess; p = subprocess.Popen(['sleep', '98765.25'], start_new_session=True); p.pid")
        assert started.ok
        wait_until(lambda: _pids_of("sleep 98765.25 "))  # a program's name is there a moment after it was started
        sleeping = _pids_of("sleep 98765.25 ")
    wait_until(lambda: all(map(is_gone, sleeping)))


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, signal; from mloc.executors.sandbox import Sandbox; s = Sandbox(); s.isolation; "
        "print(s._child.pid, flush=True); signal.pause()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: is_gone(child))


def _pids_of(command: str) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words == command:
            found.append(int(place.parent.name))
    return found
