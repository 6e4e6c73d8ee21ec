"""Paths into plain values: `result.items[0].output`, `labels["a key"]`, and `items[*].output` where a list is wanted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mloc.core.language.errors import Path, dotted, shown

EVERY = "*"
"""The step `[*]`: what follows is taken from each item of a list."""

MAX_STEPS = 32
_STEP = re.compile(r"""\.?([A-Za-z0-9_][A-Za-z0-9_/-]*)|\[(\d{1,9}|\*)\]|\[("[^"\]]{0,100}"|'[^'\]]{0,100}')\]""")


class PathError(ValueError):
    """A path is malformed, or leads nowhere. Its message says where it stops and what there is."""


def parse_path(text: str) -> Path:
    """Steps of a written path. Raises PathError."""
    steps: list[str | int] = []
    at = 0
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None or (at == 0 and text[0] == "."):
            raise PathError(f"{shown(text)} is no path: {shown(text[at:])} cannot be read (write a.b[0].c)")
        word, index, quoted = step.groups()
        if word is not None and at > 0 and text[at] != ".":
            raise PathError(f"{shown(text)} is no path: a dot is missing before {shown(word)}")
        if word is not None:
            steps.append(word)
        elif quoted is not None:
            steps.append(quoted[1:-1])
        else:
            steps.append(EVERY if index == EVERY else int(index))
        at = step.end()
    if not steps or len(steps) > MAX_STEPS:
        raise PathError(f"{shown(text)} is no path of 1 to {MAX_STEPS} steps")
    return tuple(steps)


def look_up(value: Any, path: Sequence[str | int]) -> Any:
    """The value at a path. Raises PathError naming the first step that is not there, and what is there instead."""
    for at, step in enumerate(path):
        match value, step:
            case dict(), _ if str(step) in value:
                value = value[str(step)]
            case list() | tuple(), int() if step < len(value):
                value = value[step]
            case list() | tuple(), "*":
                return [look_up(item, path[at + 1 :]) for item in value]
            case _:
                raise PathError(_missing(value, path[:at], step))
    return value


def _missing(value: Any, before: Sequence[str | int], step: str | int) -> str:
    where = f" below {dotted(before)}" if before else ""
    match value:
        case dict():
            names = sorted(str(name) for name in value)
            there = "it has " + ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "it is empty"
            return f"there is no {shown(str(step))}{where}; {there}"
        case list() | tuple():
            return f"there is no item {step}{where}; the list has {len(value)}"
        case _:
            return f"there is no {shown(str(step))}{where}; it is {shown(value)}"
