"""`mloc-console` in a real terminal (tmux), over a real server that goes away and comes back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.console.person import a_history
from tests.histories import History
from tests.log_server import LogServer

pytestmark = [pytest.mark.deep, pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here")]
DEADLINE_SEC = 30


class Terminal:
    """A tmux of its own, 80 by 24, in which one command runs."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mt", dir="/tmp"))
        variables = [f"{name}={value}" for name, value in environ.items()]
        self.tmux("new-session", "-d", "-x", "80", "-y", "24", "env", *variables, *command)

    def tmux(self, *arguments: str) -> str:
        ran = subprocess.run(["tmux", "-S", str(self._folder / "s"), "-f", "/dev/null", *arguments], capture_output=True, text=True, check=False)
        return ran.stdout

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def sees(self, *texts: str) -> str:
        return self._until(lambda shown: all(text in shown for text in texts), f"{texts}")

    def sees_no(self, text: str) -> str:
        return self._until(lambda shown: bool(shown.strip()) and text not in shown, f"no {text!r}")

    def _until(self, is_so: Callable[[str], bool], what: str) -> str:
        deadline = time.monotonic() + DEADLINE_SEC
        while not is_so(shown := self.tmux("capture-pane", "-p")):
            assert time.monotonic() < deadline, f"waited for {what}; the terminal shows\n{shown}"
            time.sleep(0.05)
        return shown

    def ended(self) -> bool:
        return not self.tmux("list-sessions").strip()

    def close(self) -> None:
        self.tmux("kill-server")
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture
def server() -> Iterator[LogServer]:
    made = LogServer(durability="always")
    made.start()
    try:
        yield made
    finally:
        made.close()


def write(server: LogServer, history: History) -> None:
    with redis.Redis.from_url(server.url) as client:
        for entry in history.entries:
            client.xadd("{mloc}:events", {"type": entry.type, "data": entry.payload}, id=entry.id)


def last_entry(server: LogServer) -> dict[bytes, bytes]:
    with redis.Redis.from_url(server.url) as client:
        return client.xrevrange("{mloc}:events", count=1)[0][1]


def test_a_person_looks_travels_cancels_and_outlives_the_server(server: LogServer, tmp_path: Path) -> None:
    # given a server with work on it, and the console in a terminal
    history = a_history()
    write(server, history)
    environ = {
        "PYTHONPATH": os.environ["PYTHONPATH"], "REDIS_URL": server.url, "ORCHESTRATOR_STATE_DIR": str(tmp_path / "state"),
        "TERM": "xterm-256color", "LANG": "C.UTF-8",
    }  # fmt: skip
    terminal = Terminal([sys.executable, "-m", "mloc.console.app"], environ)
    try:
        terminal.sees("showing 7 of 7", "✗ dead-letter", "● live")
        # a filter, and away with it
        terminal.press("/", *"state:published /./", "Enter")
        terminal.sees("showing 4 of 7")
        terminal.press("Escape")
        terminal.sees("showing 7 of 7")
        # there and back in time
        terminal.press(",", ",", "Left")
        terminal.sees("AS OF #", "t back to live")
        terminal.press("t")
        terminal.sees("● live")
        # a task is cancelled after a question
        terminal.press("j", "x")
        terminal.sees("Cancel long?")
        terminal.press("Tab", "Enter")
        terminal.sees("cancel asked for")
        assert last_entry(server)[b"type"] == b"CancelRequested"
        # the server goes away: the last state stays, and it comes back by itself
        server.kill()
        terminal.sees("the event log is away", "✗ dead-letter")
        server.start()
        terminal.sees("● live", "showing 7 of 7")
        terminal.sees_no("is away")
        # only a person ends it
        assert not terminal.ended()
        terminal.press("q")
        deadline = time.monotonic() + DEADLINE_SEC
        while not terminal.ended():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        terminal.close()
