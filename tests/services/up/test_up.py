"""`mloc up` with a real embedded server, real child processes (stubs of the services) and real signals."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from mloc.services.server.record import find_server, read_record
from mloc.services.settings import Settings
from mloc.services.up.record import UpRecord, read_up_record
from mloc.services.up.supervision import CORE_SERVICES, Up

ROOT = Path(__file__).parents[3]
STUB = Path(__file__).with_name("stub_services.py")
DEADLINE_SEC = 30
PROGRAM = """
import sys
from mloc.services import command_line
from mloc.services.up import child_services, supervision
child_services.SETTLED_AFTER_SEC = {settled_sec}
supervision.MLOC = (sys.executable, {stub!r})
sys.exit(command_line.main({arguments!r}))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mu", dir="/tmp") as path:
        yield Path(path)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, *arguments: str, settled_sec: float = 0.05, **environ: str) -> subprocess.Popen[str]:
    program = PROGRAM.format(stub=str(STUB), arguments=["up", *arguments], settled_sec=settled_sec)
    settings = {"PORT": str(free_port()), "MIN_FREE_DISK": "0", **environ}
    inherited = {name: text for name, text in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME")}
    with (folder / "errors").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-c", program], cwd=folder, env=inherited | settings, stdout=subprocess.PIPE, stderr=errors, text=True
        )


@contextlib.contextmanager
def up(folder: Path, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """A running one, after its ready line."""
    child = start(folder, *arguments, **environ)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("MLOC is up: API http://127.0.0.1:"), (folder / "errors").read_text()
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
        assert child.stdout is not None
        child.stdout.close()
        child.wait(DEADLINE_SEC)


def wait(child: subprocess.Popen[str]) -> None:
    """For its end by itself."""
    try:
        child.communicate(timeout=DEADLINE_SEC)
    finally:
        child.kill()


def record(folder: Path) -> UpRecord:
    found = read_up_record(folder / "state")
    assert found is not None
    return found


def until(holds: Callable[[], object], why: str) -> None:
    deadline = time.monotonic() + DEADLINE_SEC
    while not holds():
        assert time.monotonic() < deadline, why
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Ended; a zombie counts, since whoever adopts an orphan may reap it late."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def registrations(folder: Path) -> list[tuple[bytes, dict[bytes, bytes]]]:
    url = find_server(folder / "state")
    assert url is not None
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        return client.xrange("{mloc}:events")  # type: ignore[no-any-return]


def test_everything_starts_says_so_and_a_signal_stops_it_in_order(folder: Path) -> None:
    with up(folder, "--workers", "2") as running:
        pids = record(folder).services
        assert sorted(pids) == sorted([*CORE_SERVICES, "worker-1", "worker-2"])
        events = [fields[b"data"] for _, fields in registrations(folder)]
        assert len(events) == 2
        assert b'"results": "./results", "heartbeat": "1"' in events[0]
        running.terminate()
        assert running.wait(DEADLINE_SEC) == 0
    assert all(gone(pid) for pid in pids.values())
    assert find_server(folder / "state") is None
    assert read_up_record(folder / "state") is None
    said = (folder / "errors").read_text()
    assert "worker-1   | worker starts" in said
    assert said.index("worker stopped") < said.index("scheduler stopped")


def test_a_killed_service_is_back_at_once(folder: Path) -> None:
    with up(folder):
        killed = record(folder).services["worker-1"]
        os.kill(killed, signal.SIGKILL)
        until(lambda: record(folder).services["worker-1"] != killed, "the worker was not started again")
        until(lambda: len(registrations(folder)) == 2, "the new worker did not register")
    assert "worker-1 ended and is started again" in (folder / "errors").read_text()


def test_a_service_that_a_person_must_mend_ends_everything_with_its_words(folder: Path) -> None:
    ended = start(folder, BROKEN="scheduler")
    wait(ended)
    said = (folder / "errors").read_text()
    assert ended.returncode == 78
    assert "scheduler  | LIMIT=x cannot be used" in said
    assert said.splitlines()[-1] == "mloc up: scheduler cannot run; what it says above tells what to change"
    assert find_server(folder / "state") is None


def test_a_service_that_only_crashes_is_not_started_for_ever(folder: Path) -> None:
    ended = start(folder, settled_sec=60, CRASHING="metrics")
    wait(ended)
    assert ended.returncode == 78
    assert (folder / "errors").read_text().splitlines()[-1].startswith("mloc up: metrics crashed 5 times before everything was ready")


def test_the_second_signal_ends_a_service_that_does_not_stop(folder: Path) -> None:
    with up(folder, STUCK="worker") as running:
        pids, server = record(folder).services, read_record(folder / "state")
        running.send_signal(signal.SIGINT)
        until(lambda: "stopping" in (folder / "errors").read_text(), "the first signal was not noticed")
        running.send_signal(signal.SIGINT)
        assert running.wait(DEADLINE_SEC) == 130
    assert server is not None
    until(lambda: all(gone(pid) for pid in (*pids.values(), server.pid)), "something was left behind")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
def test_nothing_is_left_behind_when_up_itself_is_killed_and_it_starts_again(folder: Path) -> None:
    with up(folder, STUCK="worker") as running:
        pids, server = record(folder).services, read_record(folder / "state")
        running.kill()
        running.wait(DEADLINE_SEC)
        assert server is not None
        until(lambda: all(gone(pid) for pid in (*pids.values(), server.pid)), "something was left behind")
    with up(folder):
        assert len(registrations(folder)) == 2


def test_a_port_in_use_is_named_with_the_setting_to_change(folder: Path) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = start(folder, PORT=port)
        wait(ended)
    assert ended.returncode == 78
    assert f"port {port} (Address already in use): set PORT to another one" in (folder / "errors").read_text()


def test_it_is_not_up_while_another_process_answers_on_the_port_of_the_api(folder: Path) -> None:
    port = str(free_port())
    running = start(folder, PORT=port, ROBBED="intake-api")
    try:
        said, _ = running.communicate(timeout=DEADLINE_SEC)
    finally:
        running.kill()
    assert (running.returncode, said) == (78, "")
    assert f"port {port} is in use" in (folder / "errors").read_text()


def test_a_results_folder_that_cannot_be_written_is_told_before_anything_starts(folder: Path) -> None:
    (folder / "file").write_text("")
    ended = start(folder, RESULTS_DIR=str(folder / "file"))
    wait(ended)
    assert ended.returncode == 78
    assert (folder / "errors").read_text() == f"mloc up: RESULTS_DIR={folder / 'file'} cannot be written (File exists): choose another folder\n"


def test_an_unreachable_redis_url_is_one_line(folder: Path) -> None:
    ended = start(folder, REDIS_URL="redis://127.0.0.1:1")
    wait(ended)
    assert ended.returncode == 69
    assert (folder / "errors").read_text().startswith("mloc up: nothing answers at REDIS_URL=redis://127.0.0.1:1 (")
    assert (folder / "errors").read_text().count("\n") == 1


def test_a_mirror_is_started_where_one_is_wished_for() -> None:
    def names(settings: Settings) -> list[str]:
        return [child.name for child in Up(settings, {}, 1)._make_children()]

    assert names(Settings()) == [*CORE_SERVICES, "worker-1"]
    assert names(Settings(results_mirror="file:///x")) == [*CORE_SERVICES, "worker-1", "mirror"]


def test_the_procfile_lists_the_processes_of_up() -> None:
    lines = [line.split(": ") for line in (ROOT / "Procfile").read_text().splitlines()]
    assert lines == [[name, f"mloc {name}"] for name in (*CORE_SERVICES, "worker")]
