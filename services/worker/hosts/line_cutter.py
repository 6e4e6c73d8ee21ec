"""What a process prints, cut into lines."""

from __future__ import annotations

from collections.abc import Callable

LINE_BYTES = 16 * 1024  # longer lines are cut


class LineCutter:
    """Cuts what a process prints into lines; of a progress bar that rewrites its line, only what it ends as."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._tell(line)
        if len(self._rest) > LINE_BYTES:
            self._tell(self._rest)
            self._rest = b""

    def end(self) -> None:
        self._tell(self._rest)
        self._rest = b""

    def _tell(self, line: bytes) -> None:
        text = line.rstrip(b"\r").rpartition(b"\r")[2][:LINE_BYTES].decode(errors="replace").rstrip()
        if text:
            self._on_line(text)
