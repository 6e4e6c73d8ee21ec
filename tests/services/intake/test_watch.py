"""`mloc-intake watch`: each file that is put into a folder is submitted once, whatever happens to the watcher, the writer and the file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mloc.core.language.yaml_source import MAX_TEXT_BYTES
from mloc.services.intake.watching.watched_folder import WatchedFolder
from tests.services.intake.conftest import CLI, ECHO, Cli

KILLED_BEFORE_NOTING = """
import os, signal, sys
from mloc.services.intake.watching.watch_record import WatchRecord
WatchRecord.note = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from mloc.services.intake.cli import main
main(sys.argv[1:])
"""
KILLED_BEFORE_MOVING = KILLED_BEFORE_NOTING.replace(
    "from mloc.services.intake.watching.watch_record import WatchRecord\nWatchRecord.note =", "import shutil\nshutil.move ="
)


@pytest.fixture
def inbox(cli: Cli) -> Path:
    folder = Path("inbox")
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mloc.services.intake.watching.watched_folder.SETTLE_SEC", 0.1)
    monkeypatch.setattr("mloc.services.intake.watching.watch.LOOK_SEC", 0.05)
    monkeypatch.setattr("mloc.services.intake.watching.watch.WRONG_AFTER_SEC", 0.2)


def submissions(cli: Cli) -> int:
    return cli.log().count("TaskSubmitted")


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_each_file_is_submitted_once_also_after_a_restart_and_a_changed_one_again(cli: Cli, inbox: Path) -> None:
    (inbox / "a.yaml").write_text(ECHO)
    (inbox / "b.yml").write_text(ECHO)
    assert cli("watch", "inbox", "--once") == 0, cli.err
    assert cli.out.count("submitted hello-") == 2
    assert cli("watch", "inbox", "--once") == 0
    assert submissions(cli) == 2
    for text in (ECHO + "  timeout_sec: 9\n", ECHO):  # changed, and changed back
        (inbox / "a.yaml").write_text(text)
        assert cli("watch", "inbox", "--once") == 0
        assert "the file has changed" in cli.out
    assert submissions(cli) == 4


def test_one_killed_between_submitting_and_noting_it_does_not_double(cli: Cli, inbox: Path) -> None:
    (inbox / "a.yaml").write_text(ECHO)
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_NOTING, "watch", "inbox", "--once"], capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert submissions(cli) == 1
    assert cli("watch", "inbox", "--once") == 0
    assert "already submitted hello-" in cli.out
    assert submissions(cli) == 1


def test_a_torn_record_loses_at_most_what_the_key_finds_again(cli: Cli, inbox: Path) -> None:
    (inbox / "a.yaml").write_text(ECHO)
    assert cli("watch", "inbox", "--once") == 0
    record = inbox / ".mloc-watch.jsonl"
    record.write_bytes(record.read_bytes()[:-7])
    for _ in range(2):
        assert cli("watch", "inbox", "--once") == 0
    assert submissions(cli) == 1


def test_two_watchers_of_one_folder_do_not_double(cli: Cli, inbox: Path) -> None:
    for number in range(12):
        (inbox / f"{number}.yaml").write_text(ECHO)
    watchers = [subprocess.Popen([*CLI, "watch", "inbox", "--once"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [watcher.communicate(timeout=90) for watcher in watchers]
    assert [watcher.returncode for watcher in watchers] == [0, 0], said
    assert sum(out.count(": submitted") for out, _ in said) == 12
    assert submissions(cli) == 12


def test_a_slow_writer_is_waited_for(cli: Cli, inbox: Path) -> None:
    watcher = subprocess.Popen([*CLI, "watch", "inbox", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        spec = {"taskType": "echo", "data": {"prompts": ["a"] * 50}}
        text = json.dumps({"apiVersion": "mloc/v1", "kind": "EchoTask", "metadata": {"name": "slow"}, "spec": spec})
        with (inbox / "slow.json").open("w") as writing:
            for start in range(0, len(text), 60):
                writing.write(text[start : start + 60])
                writing.flush()
                time.sleep(0.2)
        until(lambda: submissions(cli))
    finally:
        watcher.send_signal(signal.SIGINT)
        out, err = watcher.communicate(timeout=30)
    assert watcher.returncode == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == ["watching", "submitted"]
    assert cli.json("show", events[1]["task_id"])["rows"]["of"] == 50


def test_a_wrong_file_is_reported_once_and_taken_when_it_is_mended(cli: Cli, inbox: Path) -> None:
    (inbox / "bad.yaml").write_text(ECHO.replace("taskType", "taskTipe"))
    (inbox / "good.yaml").write_text(ECHO)
    assert cli("watch", "inbox", "--once") == 2
    assert cli.err.count("bad.yaml: wrong") == 1
    assert "did you mean" in cli.err
    assert submissions(cli) == 1
    (inbox / "bad.yaml").write_text(ECHO)
    assert cli("watch", "inbox", "--once") == 0
    assert submissions(cli) == 2


def test_what_is_submitted_can_be_moved_away_and_the_same_file_put_there_again_is_another(cli: Cli, inbox: Path) -> None:
    for _ in range(2):
        (inbox / "a.yaml").write_text(ECHO)
        assert cli("watch", "inbox", "--once", "--move-to", "inbox/done") == 0, cli.err
        assert not (inbox / "a.yaml").exists()
    assert len(list((inbox / "done").iterdir())) == 2
    assert submissions(cli) == 2


def test_one_killed_before_it_moved_a_file_moves_it_later_and_does_not_double(cli: Cli, inbox: Path) -> None:
    (inbox / "a.yaml").write_text(ECHO)
    command = [sys.executable, "-c", KILLED_BEFORE_MOVING, "watch", "inbox", "--once", "--move-to", "done"]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == -signal.SIGKILL
    assert cli("watch", "inbox", "--once", "--move-to", "done") == 0
    assert (Path("done") / "a.yaml").exists()
    assert submissions(cli) == 1


def test_what_is_no_task_file_of_the_folder_is_left_alone_with_a_line(cli: Cli, inbox: Path) -> None:
    (inbox / ".hidden.yaml").write_text(ECHO)
    for unfinished in ("a.yaml~", "a.yaml.partial", "#a.yaml#", "notes.txt"):
        (inbox / unfinished).write_text(ECHO)
    Path("outside.yaml").write_text(ECHO)
    (inbox / "link.yaml").symlink_to(Path("outside.yaml").resolve())
    (inbox / "nothing.yaml").symlink_to("gone.yaml")
    os.mkfifo(inbox / "fifo.yaml")
    (inbox / "huge.yaml").write_bytes(b"#" * (MAX_TEXT_BYTES + 1))
    (inbox / "folder.yaml").mkdir()
    assert cli("watch", "inbox", "--once") == 0
    assert [line.partition(": ")[0] for line in sorted(cli.err.splitlines())] == [
        f"inbox/{name}.yaml" for name in ("fifo", "folder", "huge", "link", "nothing")
    ]
    assert cli.log() == []


def test_a_log_that_cannot_be_reached_now_is_waited_for(cli: Cli, inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mloc.services.intake.commands.log_session.PATIENCE_SEC", 0.1)
    monkeypatch.setattr("mloc.services.intake.watching.watch.AGAIN_SEC", 0.2)
    (inbox / "a.yaml").write_text(ECHO)
    environ = {**os.environ, "REDIS_URL": "redis://127.0.0.1:1"}
    watcher = subprocess.Popen([*CLI, "watch", "inbox", "--json"], env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert watcher.stdout is not None
        events = [json.loads(watcher.stdout.readline()) for _ in range(2)]
    finally:
        watcher.terminate()
        assert watcher.wait(30) == 0
    assert [event["event"] for event in events] == ["watching", "waiting"]


def test_a_folder_that_is_not_there_is_named(cli: Cli) -> None:
    assert cli("watch", "nowhere") == 2
    assert "nowhere is no folder" in cli.err


def test_a_file_counts_only_when_it_lay_still_and_its_text_has_an_end(tmp_path: Path) -> None:
    now = [0.0]
    folder = WatchedFolder(tmp_path, lambda: now[0], lambda *_: None, settle_sec=1.0)

    def look_at(second: float) -> list[str]:
        now[0] = second
        return [found.path.name for found in folder.look()[0]]

    (tmp_path / "a.yaml").write_text("a: 1\n")
    (tmp_path / "b.yaml").write_text("a: 1")
    (tmp_path / "c.yaml").write_text("a: 1\n---\n")
    assert look_at(0) == []
    assert look_at(0.9) == []
    assert look_at(1.1) == ["a.yaml"]
    assert look_at(4.9) == ["a.yaml"]
    assert look_at(5.1) == ["a.yaml", "b.yaml", "c.yaml"]
    (tmp_path / "a.yaml").write_text("a: 12\n")
    assert look_at(5.2) == ["b.yaml", "c.yaml"]
    assert look_at(6.3) == ["a.yaml", "b.yaml", "c.yaml"]
