"""How a terminal shows what is wrong in a task file: each place with its lines, what was found and accepted, what to try."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mloc.core.language.errors import Problem

_BEFORE = 2  # lines of the file that are shown above the one that is wrong


def show_problems(problems: Sequence[Problem], text: bytes = b"", *, are_warnings: bool = False) -> None:
    """On standard error; in colours where that is a terminal and NO_COLOR is not set. `text` is the file's, for the lines around."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    lines = text.decode("utf-8-sig", "replace").splitlines()
    for problem in problems:
        console.print(problem_text(problem, lines, is_warning=are_warnings), end="\n\n" if not are_warnings else "\n")


def problem_text(problem: Problem, lines: Sequence[str] = (), *, is_warning: bool = False) -> Text:
    """One problem as styled lines; `lines` are those of the file, [] where they are not at hand."""
    style = "yellow" if is_warning else "red"
    shown = Text()
    shown.append("warning" if is_warning else "error", style=f"bold {style}")
    shown.append(f": {_clean(problem.path)}: " if problem.path else ": ", style="bold")
    shown.append(_clean(problem.message), style="bold")
    if problem.line:
        shown.append("\n  --> ", style="blue").append(f"{_near(problem.source)}:{problem.line}:{problem.column}")
        _excerpt(shown, problem, lines, style)
    elif problem.source:
        shown.append("\n  --> ", style="blue").append(_near(problem.source))
    for name, said in (("found", problem.found), ("accepted", problem.accepted), ("hint", problem.hint)):
        if said:
            shown.append(f"\n  {name}: ", style="cyan" if name != "hint" else "green").append(_clean(said))
    return shown


def _excerpt(shown: Text, problem: Problem, lines: Sequence[str], style: str) -> None:
    """The line with a mark under its column, and those before it where the file has them."""
    if not problem.excerpt:
        return
    digits = len(str(problem.line))
    is_whole = problem.line <= len(lines) and _clean(lines[problem.line - 1]).rstrip().startswith(problem.excerpt)  # not cut to a part
    first = max(1, problem.line - _BEFORE) if is_whole else problem.line
    for number in range(first, problem.line):
        shown.append(f"\n   {number:>{digits}} | ", style="blue").append(_clean(lines[number - 1])[:160], style="dim")
    shown.append(f"\n   {problem.line} | ", style="blue").append(problem.excerpt)
    shown.append(f"\n   {'':>{digits}} | ", style="blue").append(" " * max(problem.caret - 1, 0) + "^", style=f"bold {style}")


def _near(source: str) -> str:
    """A path below the working folder as people name it."""
    try:
        return os.path.relpath(source) if source.startswith("/") and Path(source).is_relative_to(Path.cwd()) else _clean(source)
    except OSError:
        return _clean(source)


def _clean(text: str) -> str:
    """Without what drives a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
