"""TAB in real shells: commands, options, files and the tasks that were met lately, for all four programs."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mloc.services.shell_completion import MOST_SEEN, SHELLS, remember

PROGRAMS = {
    "mloc-intake": ("mloc.services.intake.cli", "completion"), "mloc": ("mloc.services.command_line", "completion"),
    "mloc-replay": ("mloc.replay.cli", "completion"), "mloc-console": ("mloc.console.app", "--completion"),
}  # fmt: skip


@functools.cache
def printed(program: str, shell: str) -> str:
    module, how = PROGRAMS[program]
    ran = subprocess.run([sys.executable, "-m", module, how, shell], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def run(shell: str, text: str, home: Path) -> list[str]:
    ran = subprocess.run([shell, "-c", text], capture_output=True, text=True, timeout=60, env={"HOME": str(home), "PATH": os.environ["PATH"]})
    assert ran.stderr == ""
    return ran.stdout.split()


def pressed_in_bash(program: str, line: str, home: Path) -> list[str]:
    """What TAB offers in bash after this line."""
    script = home / f"{program}.bash"
    script.write_text(printed(program, "bash"))
    words = line.split(" ")
    ask = f"""
source {script}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
function_name=$(complete -p {program} | sed -E 's/.*-F ([^ ]+).*/\\1/')
$function_name {program} '{words[-1]}' '{words[-2]}'
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return run("bash", ask, home)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_shell_can_read_the_script_of_every_program(program: str, shell: str, home: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = home / "script"
    script.write_text(printed(program, shell))
    assert run(shell, f"{'bash -n' if shell == 'bash' else f'{shell} --no-execute' if shell == 'fish' else 'zsh -n'} {script}", home) == []


def test_bash_completes_commands_options_templates_and_tasks(home: Path) -> None:
    remember(["hello-1", "hello", "bye-2"])
    assert {"submit", "list", "watch"} <= set(pressed_in_bash("mloc-intake", "mloc-intake ", home))
    assert pressed_in_bash("mloc-intake", "mloc-intake exp", home) == ["explain"]
    assert pressed_in_bash("mloc-intake", "mloc-intake list --si", home) == ["--since"]
    assert pressed_in_bash("mloc-intake", "mloc-intake submit --template ech", home) == ["echo"]
    assert set(pressed_in_bash("mloc-intake", "mloc-intake show hel", home)) == {"hello-1", "hello"}
    assert pressed_in_bash("mloc", "mloc doc", home) == ["doctor"]
    assert pressed_in_bash("mloc-replay", "mloc-replay ver", home) == ["verify"]
    assert pressed_in_bash("mloc-console", "mloc-console --re", home) == ["--read-only"]


def test_fish_completes_commands_and_tasks(home: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    remember(["hello-1"])
    script = home / "script.fish"
    script.write_text(printed("mloc-intake", "fish"))
    assert "explain" in run("fish", f"source {script}; complete -C 'mloc-intake exp'", home)
    assert "hello-1" in run("fish", f"source {script}; complete -C 'mloc-intake show hel'", home)


def test_without_any_task_seen_nothing_is_offered_and_nothing_is_said(home: Path) -> None:
    assert pressed_in_bash("mloc-intake", "mloc-intake show hel", home) == []


def test_what_is_remembered_is_plain_bounded_and_the_newest_first(home: Path) -> None:
    remember(["$(touch evil)", "a b", "`x`", "", "good"])
    remember(f"task-{number}" for number in range(2 * MOST_SEEN))
    remember(["newest"])
    seen = (home / ".cache" / "mloc" / "tasks").read_text().splitlines()
    assert (seen[0], len(seen)) == ("newest", MOST_SEEN)
    assert not any(set(name) & set("$` ") for name in seen)


def test_a_home_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/nowhere")
    remember(["a"])
