"""`mloc demo` as a person runs it: a process whose output, exit code, folder and leftovers are looked at."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.whole_cell import without_module

DEMO = (sys.executable, "-m", "mloc.services.command_line", "demo")
LONGEST_SEC = 170  # three minutes are promised


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="md", dir="/tmp") as path:
        yield Path(path)


def demo(folder: Path, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    inherited = {name: text for name, text in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME")}
    return subprocess.Popen(
        [*DEMO, *arguments], cwd=folder, env=inherited | environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(child: subprocess.Popen[str], within_sec: float) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    try:
        out, errors = child.communicate(timeout=within_sec)
    except subprocess.TimeoutExpired:
        child.terminate()
        out, errors = child.communicate(timeout=60)
        pytest.fail(f"not done after {within_sec} s:\n{out}\n{errors}")
    return child.returncode, out, errors


def left_running(folder: Path) -> list[str]:
    """Command lines of living processes that have this folder in their environment or command."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                command, environ = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
                if os.fsencode(folder) in environ + command:
                    found.append(command.replace(b"\0", b" ").decode())
    return found


@pytest.mark.deep
@pytest.mark.models
@pytest.mark.timeout(LONGEST_SEC + 70)
def test_the_demo_shows_every_figure_as_its_results_have_it_and_leaves_nothing_running(folder: Path) -> None:
    foreign = {"ORCHESTRATOR_STATE_DIR": str(folder / "mine"), "RESULTS_DIR": str(folder / "mine"), "REDIS_URL": "redis://127.0.0.1:1"}

    code, out, errors = ended(demo(folder, "--dir", "here", **foreign), LONGEST_SEC)

    assert (code, errors) == (0, ""), out + errors
    results = folder / "here" / "results"
    for called, stage in (("pretraining", "pretrain"), ("LoRA tuning", "tune")):
        training = result_of(results, stage)["training"]
        assert training["final_loss"] < training["first_loss"]
        assert f"loss {training['first_loss']:.4f} → {training['final_loss']:.4f} in {training['steps']} steps" in line_of(out, called)
        assert re.search(r"[\d,]+ tokens/s, by worker-[12]", line_of(out, called))
    before, after = result_of(results, "before")["items"][0], result_of(results, "answer")["items"][0]
    assert line_of(out, before["prompt"]).split("   ")[1:] == [before["output"], after["output"]]
    assert {line_of(out, f"shard {number}").split()[-1] for number in (0, 1)} == {"worker-1", "worker-2"}
    assert str(next(results.glob("tiny-pipeline-*"))).partition(".")[0] in out
    assert "27 tasks, 27 results published, each exactly once" in out
    assert "24 items, none missing, none twice" in out
    assert re.search(r"kill -9 \d+: scheduler", out)
    assert re.search(r"kill -9 \d+: worker-[12] while it runs s\d+", out)
    assert re.search(r"VERIFIED    ([23]) of \1 services hold the state that the log gives", out)  # the metrics' snapshot may be there by then
    assert not (folder / "mine").exists()
    assert left_running(folder) == []


@pytest.mark.deep
@pytest.mark.models
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_stops_all_that_it_started(folder: Path, number: signal.Signals) -> None:
    child = demo(folder, "--dir", "here")
    assert child.stdout is not None
    for line in child.stdout:  # until the main job runs
        if "running on worker-" in line:
            break
    assert left_running(folder)
    child.send_signal(number)
    code, out, errors = ended(child, 60)
    assert (code, errors) == (130, "")
    assert "interrupted; what it made is in" in out
    assert left_running(folder) == []


@pytest.mark.deep
@pytest.mark.models
def test_a_demo_whose_services_end_says_so_and_fails(folder: Path) -> None:
    child = demo(folder, "--dir", "here")
    assert child.stdout is not None
    for line in child.stdout:
        if "running on worker-" in line:
            break
    os.kill(json.loads((folder / "here" / "state" / "up.json").read_bytes())["pid"], signal.SIGKILL)
    code, _, errors = ended(child, 60)
    assert code == 1
    told = [line for line in errors.splitlines() if "the event log cannot be read; trying again" not in line]  # on a slow machine this came first
    assert told[0].startswith("mloc demo: `mloc up` ended by itself: ")
    assert_within(20, folder)


@pytest.mark.models
def test_what_would_not_go_well_is_said_before_anything_is_started(folder: Path) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    hiding = without_module(folder, "torch")
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        attempts = [
            (demo(folder, "--dir", "full"), "full is not empty: name a new folder with --dir"),
            (demo(folder, "--port", port), f"port {port} is in use: leave --port out, and a free one is taken"),
            (demo(folder, MIN_FREE_DISK="900TB"), "MiB are free at"),
            (demo(folder, PYTHONPATH=os.pathsep.join((str(hiding), os.environ["PYTHONPATH"]))), "lacks torch. This gets it:\n"),
        ]
        for child, said in attempts:
            code, _, errors = ended(child, 60)
            assert (code, said in errors, "Traceback" in errors) == (78, True, False), errors
    assert not (folder / "demo").exists()


def assert_within(seconds: float, folder: Path) -> None:
    """Nothing of the demo is left: a killed `mloc up` takes its children along."""
    deadline = time.monotonic() + seconds
    while left := left_running(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def result_of(results: Path, stage: str) -> dict:
    (file,) = results.glob(f"tiny-pipeline-*.{stage}/responses.json")
    return json.loads(file.read_bytes())


def line_of(out: str, start: str) -> str:
    """The line that begins so, with its columns divided by three spaces."""
    (line,) = [line.strip() for line in out.splitlines() if line.strip().startswith(start)]
    return re.sub(r" {3,}", "   ", line)
