"""How commands speak: JSON for programs, tables and lines for people."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

import msgspec

GLYPHS = {
    "waiting": "·", "ready": "○", "backoff": "↻", "lost": "↻", "orphaned": "↻", "failed": "↻", "dispatched": "◌", "running": "●",
    "succeeded": "✓", "published": "✓", "dead_lettered": "✗", "cancelled": "⊘", "timed_out": "✗",
}  # fmt: skip
COLOURS = {"running": "cyan", "dispatched": "cyan", "published": "green", "succeeded": "green", "dead_lettered": "red", "timed_out": "red"}


def print_json(value: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def say(line: str = "") -> None:
    """A line for people, beside what a program reads."""
    print(line, file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the last one runs free."""
    rows = [[" ".join(printable(cell).split()) for cell in row] for row in rows]
    widths = [max(_width(row[at]) for row in (head, *rows)) for at in range(len(head) - 1)]
    lines = []
    for row in (head, *rows):
        cells = [cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join((*cells, row[-1])).rstrip())
    return "\n".join(lines)


def age(ms: int) -> str:
    """A span of time in its largest unit."""
    seconds = max(0, ms) / 1000
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.1f}s"


def one_line(text: str, longest: int = 100) -> str:
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Without control characters: a log line must not drive the terminal."""
    return "".join(char for char in text if char in "\t\n" or unicodedata.category(char)[0] != "C")


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
