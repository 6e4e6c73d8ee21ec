"""What a check of plain values comes upon, before its place in the text is known."""

from __future__ import annotations

from typing import NamedTuple

from mloc.core.language.errors import MAX_PROBLEMS, Path, Problem


class Finding(NamedTuple):
    """A problem at a path of the checked value; `at_key` when the key itself is what is wrong."""

    path: Path
    at_key: bool
    problem: Problem


class TooMany(Exception):
    """Enough problems were found: looking on would only cost time."""


class Findings:
    """Collects problems and warnings."""

    def __init__(self) -> None:
        self.problems: list[Finding] = []
        self.warnings: list[Finding] = []

    def wrong(self, path: Path, message: str, *, found: str = "", accepted: str = "", hint: str = "", at_key: bool = False) -> None:
        """Note a problem. Raises TooMany after the last one that is kept."""
        self.problems.append(Finding(path, at_key, Problem(message, found=found, accepted=accepted, hint=hint)))
        if len(self.problems) >= MAX_PROBLEMS:
            raise TooMany

    def warn(self, path: Path, message: str, *, hint: str = "", at_key: bool = True) -> None:
        """Note a warning; those past the limit are left out."""
        if len(self.warnings) < MAX_PROBLEMS:
            self.warnings.append(Finding(path, at_key, Problem(message, hint=hint)))
