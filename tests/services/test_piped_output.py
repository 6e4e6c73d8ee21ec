"""Commands whose output another program reads, and which it stops reading before the end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mloc.services.piped_output import ends_with_its_reader

COMMANDS = (
    ("services.command_line", "doctor", "--json"),
    ("services.command_line", "completion", "bash"),
    ("services.command_line", "--help"),
    ("services.intake.cli", "templates"),
    ("services.intake.cli", "completion", "bash"),
    ("replay.cli", "completion", "bash"),
    ("replay.cli", "--help"),
    ("console.app", "--completion", "bash"),
)


def unread(command: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command, run with an output that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    module, *arguments = command
    try:
        return subprocess.run(
            [sys.executable, "-m", f"mloc.{module}", *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, env=environment,
            cwd=folder, timeout=120, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_whose_output_nobody_reads_ends_without_a_word(command: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> None:
    ran = unread(command, tmp_path_factory.mktemp("empty"))
    assert (ran.returncode, ran.stderr) == (0, "")


def test_another_pipe_that_broke_is_not_taken_for_the_output() -> None:
    def main() -> int:
        raise BrokenPipeError("a socket")

    with pytest.raises(BrokenPipeError, match="a socket"):
        ends_with_its_reader(main)()


def test_the_list_of_executors_ends_without_a_word_too(tmp_path: Path) -> None:
    ran = unread(("executors.registry",), tmp_path)
    assert (ran.returncode, ran.stderr) == (-signal.SIGPIPE, "")


def test_a_command_without_an_output_ends_as_it_would_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it where who started it closed the output
    assert ends_with_its_reader(lambda: 3)() == 3
