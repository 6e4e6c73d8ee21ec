"""Standard output and error of a host in which attempts run side by side: what the thread of one prints is told as that attempt's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from mloc.core.host_frames import Telemetry


class AttemptStream:
    """Stands in for a stream. What other threads print goes where it always went."""

    def __init__(self, stream: TextIO, send: Callable[[Telemetry], None]) -> None:
        self._stream = stream
        self._send = send
        self._here = threading.local()

    @contextmanager
    def of(self, task: str, attempt: int) -> Iterator[None]:
        """What this thread prints meanwhile are lines of that attempt."""
        self._here.attempt, self._here.rest = (task, attempt), ""
        try:
            yield
        finally:
            if self._here.rest:
                self._send(Telemetry(task, attempt, lines=(self._here.rest,)))
            self._here.attempt = None

    def write(self, text: str) -> int:
        attempt = getattr(self._here, "attempt", None)
        if attempt is None:
            return self._stream.write(text)
        *lines, self._here.rest = (self._here.rest + text).split("\n")
        if lines:
            self._send(Telemetry(*attempt, lines=tuple(lines)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
