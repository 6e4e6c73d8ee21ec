"""`events.log`: one readable line an event, in a file that is turned over at a size. It starts again behind its own last line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from mloc.core import log_ids
from mloc.core.codec import UnknownEvent
from mloc.core.events import AttemptStarted, AttemptSucceeded, Event, ResultPublished, TaskDispatched, TaskSubmitted

WRITE_AT_LINES = 2048
LONGEST_VALUE = 200
_LEFT_OUT = frozenset({"spec", "result", "cause", "labels", "need", "parallel", "body_sha256", "spec_digest"})
_TAIL_BYTES = 64 * 1024
_PLAIN = re.compile(r"[^\s\"\\\x00-\x1f]+")


class EventLines:
    """Lines wait in memory until `flush`. `last_id` is of the newest line in the file when it was last looked at."""

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._lines: list[str] = []
        self._second = -1
        self._second_text = ""
        self._milliseconds = ""
        self._time = ""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._size, self.last_id = _last_line(path)
        self._is_past_last = False

    def add(self, id: str, event: Event | UnknownEvent) -> None:
        """An event that has a line already is left out: after a crash the log is read again from a little before."""
        if not self._is_past_last:
            if not log_ids.before(self.last_id, id):
                return
            self._is_past_last = True
        milliseconds = id[:-2] if id[-2] == "-" else id.partition("-")[0]
        if milliseconds != self._milliseconds:
            self._milliseconds, self._time = milliseconds, self._shown(milliseconds)
        words = _WORDS.get(type(event), _any_words)
        self._lines.append(f"{self._time} {id} {words(event)}\n")
        if len(self._lines) >= WRITE_AT_LINES:
            self.flush()

    def go_back(self) -> None:
        """The log is read again from an earlier entry."""
        if self._lines:
            self.last_id = self._lines[-1].split(" ", 2)[1]
        self._is_past_last = False

    def flush(self) -> None:
        """Raises OSError; what waits is then kept for the next time, but no more than a file holds."""
        if not self._lines:
            return
        text = "".join(self._lines).encode()
        if self._size and self._size + len(text) > self._max_bytes:
            self._turn_over()
        try:
            with self._path.open("ab") as file:
                file.write(text)
        except OSError:
            if len(text) > self._max_bytes:
                self._lines.clear()
            raise
        self._size += len(text)
        self.last_id = self._lines[-1].split(" ", 2)[1]
        self._lines.clear()

    def _shown(self, milliseconds: str) -> str:
        """The time as people and programs read it."""
        second, rest = divmod(int(milliseconds), 1000)
        if second != self._second:
            self._second, self._second_text = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{rest:03}Z"

    def _turn_over(self) -> None:
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{number}") for number in range(1, self._backups + 1))]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if newer.exists():
                os.replace(newer, older)
        if not self._backups:
            self._path.unlink(missing_ok=True)
        self._size = 0


def _submission_words(event: TaskSubmitted) -> str:
    after = f" after={','.join(event.depends_on)}" if event.depends_on else ""
    type_ = event.task_type or "pipeline"
    return f"TaskSubmitted task={event.task} type={type_} name={_short(event.name)} owner={_short(event.owner)}{after}"


def _dispatch_words(event: TaskDispatched) -> str:
    devices = f" devices={','.join(map(str, event.devices))}" if event.devices else ""
    return f"TaskDispatched task={event.task} attempt={event.attempt} worker={event.worker}{devices}{' joins' if event.joins else ''}"


def _success_words(event: AttemptSucceeded) -> str:
    return f"AttemptSucceeded task={event.task} attempt={event.attempt} worker={event.worker} ms={event.duration_ms} bytes={event.size_bytes}"


def _any_words(event: Event | UnknownEvent) -> str:
    if isinstance(event, UnknownEvent):
        return f"{event.type} (not known to this program)"
    fields: dict[str, Any] = msgspec.to_builtins(event)
    shown = " ".join(f"{name}={_short(value)}" for name, value in fields.items() if name not in _LEFT_OUT and name != "type")
    return f"{fields['type']} {shown}"


# those of which there are many are written out by hand
_WORDS: dict[type, Callable[[Any], str]] = {
    TaskSubmitted: _submission_words,
    TaskDispatched: _dispatch_words,
    AttemptStarted: lambda event: f"AttemptStarted task={event.task} attempt={event.attempt} worker={event.worker}",
    AttemptSucceeded: _success_words,
    ResultPublished: lambda event: f"ResultPublished task={event.task} attempt={event.attempt}",
}


def _short(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if not text:
        return "-"
    if isinstance(value, str) and not _PLAIN.fullmatch(text):
        text = msgspec.json.encode(text).decode()
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _last_line(path: Path) -> tuple[int, str]:
    """(size, id of the last line), after cutting off a line that was not written to its end."""
    try:
        with path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - _TAIL_BYTES)
            file.seek(start)
            tail = file.read()
            whole = tail.rfind(b"\n") + 1
            if whole < len(tail):
                size = start + whole
                file.truncate(size)
    except FileNotFoundError:
        return _last_of_older(path)
    lines = tail[:whole].splitlines()
    words = lines[-1].split(b" ", 2) if lines else []
    try:
        id = words[1].decode() if len(words) > 1 else log_ids.START
        log_ids.key(id)
    except ValueError:
        id = log_ids.START
    return size, id


def _last_of_older(path: Path) -> tuple[int, str]:
    older = path.with_name(f"{path.name}.1")
    return (0, _last_line(older)[1]) if older.exists() else (0, log_ids.START)
