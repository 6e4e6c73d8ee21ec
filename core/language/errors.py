"""What is wrong in a task file, said so that a person can mend it: where, what was found, what is accepted, what to try."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import msgspec

Path = tuple[str | int, ...]

MAX_PROBLEMS = 64
"""Of one file; a file that is not of this language at all would give one for each line."""

_MAX_FOUND = 60
_MAX_EXCERPT = 160


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong, or (as a warning) that will have no effect. Lines and columns count from 1; 0 is unknown."""

    message: str
    path: str = ""
    line: int = 0
    column: int = 0
    found: str = ""
    accepted: str = ""
    hint: str = ""
    source: str = ""
    excerpt: str = ""  # the line, cut to what is around the column
    caret: int = 0  # the column in the excerpt

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.source, self.line, self.column) if part)
        where = f"{self.path}: " if self.path else ""
        tail = "; ".join(part for part in (
            f"found {self.found}" if self.found else "",
            f"accepted: {self.accepted}" if self.accepted else "",
            self.hint,
        ) if part)
        return f"{place + ': ' if place else ''}{where}{self.message}{' (' + tail + ')' if tail else ''}"


class LanguageError(Exception):
    """A task file, a reference or an override is wrong. Holds every problem that was found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[LanguageError], tuple[tuple[Problem, ...]]]:
        return LanguageError, (self.problems,)


def dotted(path: Sequence[str | int]) -> str:
    """A path as people write it: `spec.stages[0].name`; keys that are not plain words are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part and all(char.isalnum() or char in "_-/" for char in part):
            text += f".{part}" if text else part
        else:
            text += f"[{shown(part)}]"
    return text


def shown(value: object) -> str:
    """A value as it is quoted in a message: JSON, cut to one short line."""
    match value:
        case dict():
            return f"a mapping with {_listed(list(value))}" if value else "an empty mapping"
        case list() | tuple():
            return f"a list of {len(value)}" if value else "an empty list"
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            cut = value if len(value) <= _MAX_FOUND else value[:_MAX_FOUND] + "…"
            return msgspec.json.encode(cut).decode()
        case _:
            text = str(value)
            return text if len(text) <= _MAX_FOUND else text[:_MAX_FOUND] + "…"


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`did you mean "x"?` for the nearest known name, else an empty text."""
    near = nearest(word, known)
    return f'did you mean "{prefix}{near}"?' if near else ""


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known name that is most like the word, or an empty text."""
    if len(word) > 100:
        return ""
    by_lower = {name.lower().replace("-", "_"): name for name in known}
    near = difflib.get_close_matches(word.lower().replace("-", "_"), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else ""


def excerpt_of(line: str, column: int) -> tuple[str, int]:
    """The part of a line around a column, and the column in that part."""
    start = max(0, min(column - 1 - _MAX_EXCERPT // 2, len(line) - _MAX_EXCERPT))
    cut = line[start : start + _MAX_EXCERPT]
    return "".join(char if char.isprintable() else " " for char in cut).rstrip(), column - start


def _listed(names: list[object], most: int = 4) -> str:
    text = ", ".join(str(name)[:30] for name in names[:most])
    return text + (", …" if len(names) > most else "")
