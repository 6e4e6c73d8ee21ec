"""Completion for bash, zsh and fish, from a command's own argparse parser: one script a command, printed by `completion`.

    eval "$(mloc-intake completion bash)"            in ~/.bashrc
    mloc-intake completion fish > ~/.config/fish/completions/mloc-intake.fish

Pressing TAB starts no Python: options and names are in the script, and tasks are read from a small file of those that this user's commands
have met lately.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "fish")
MOST_SEEN = 300
_SEEN = (".cache", "mloc", "tasks")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # what no shell expands
_SEEN_IN_SHELL = "cat ~/" + "/".join(_SEEN) + " 2>/dev/null"
_TASKS = {
    "bash": "_mloc_seen_tasks",
    "zsh": "_mloc_seen_tasks",
    "fish": "(_mloc_seen_tasks)",
    "preamble": {
        "bash": f'_mloc_seen_tasks() {{ compgen -W "$({_SEEN_IN_SHELL})" -- "$1"; }}\n',
        "zsh": f'_mloc_seen_tasks() {{ local -a seen; seen=(${{(f)"$({_SEEN_IN_SHELL})"}}); compadd -a seen }}\n',
        "fish": f"function _mloc_seen_tasks; {_SEEN_IN_SHELL}; end\n",
    },
}
_FILES = frozenset({"FILE", "PATH"})
_FOLDERS = frozenset({"DIR", "FOLDER"})


def add_completion(commands: Any) -> argparse.ArgumentParser:
    """The command `completion SHELL` among the commands of a parser."""
    about = "print a script that completes commands, options and tasks in a shell"
    added: argparse.ArgumentParser = commands.add_parser(
        "completion", help=about, description=f"{about[0].upper()}{about[1:]}.",
        epilog='example:\n  eval "$(… completion bash)"      # in ~/.bashrc', formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    added.add_argument("shell", choices=SHELLS)
    return added


def shell_words(words: Iterable[str]) -> dict[str, Any]:
    """An action's completion by these words, for its attribute `complete`; argparse takes other words as well."""
    line = " ".join(word for word in words if _PLAIN.fullmatch(word))
    name = "_mloc_words_" + hashlib.sha256(line.encode()).hexdigest()[:8]
    preamble = {
        "bash": f'{name}() {{ compgen -W "{line}" -- "$1"; }}\n', "zsh": f"{name}() {{ compadd {line} }}\n",
        "fish": f"function {name}; string split ' ' '{line}'; end\n",
    }  # fmt: skip
    return {"bash": name, "zsh": name, "fish": f"({name})", "preamble": preamble}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell."""
    import shtab  # only where a script is printed

    for one in _parsers(parser):
        for action in one._actions:
            names = {action.metavar} if isinstance(action.metavar, str) else set()
            if action.dest in ("task", "tasks"):
                action.complete = _TASKS  # type: ignore[attr-defined]
            elif names & _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif names & _FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def remember(tasks: Iterable[str]) -> None:
    """Put ids and names in front of those that TAB offers. Never fails: it is a convenience."""
    new = [name for name in tasks if _PLAIN.fullmatch(name)]
    if not new:
        return
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: a user without a home
        file = Path.home().joinpath(*_SEEN)
        file.parent.mkdir(parents=True, exist_ok=True)
        known = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
        kept = list(dict.fromkeys([*new, *(name for name in known if _PLAIN.fullmatch(name))]))[:MOST_SEEN]
        if kept == known:
            return
        staged = file.with_name(f".{file.name}.{os.getpid()}")
        staged.write_text("\n".join(kept) + "\n", encoding="utf-8")
        staged.replace(file)


def _parsers(parser: argparse.ArgumentParser) -> Sequence[argparse.ArgumentParser]:
    """The parser and those of its commands."""
    below = [inner for action in parser._actions if isinstance(action, argparse._SubParsersAction) for inner in action.choices.values()]
    return [parser, *below]
