"""The last lines that an engine's processes print: they say why it did not start, or died; the engine itself only says that it did."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

KEPT_LINES = 400
READ_BYTES = 64 * 1024

_SAID = re.compile(r"\b((?:\w+\.)*\w*(?:Error|Exception|OutOfMemory)): (.+)")
_EMPTY = ("Engine core initialization failed", "EngineCore encountered an issue", "WorkerProc initialization failed", "Worker failed with error")


class OutputTail:
    """Passes on what is printed while it is `catching`, and by processes that were started meanwhile for as long as they live."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Standard output and error go through here."""
        reads, writes = os.pipe()
        kept = [os.dup(stream) for stream in (1, 2)]
        threading.Thread(target=self._pass_on, args=(reads, os.dup(kept[1])), name="engine-output", daemon=True).start()
        _flush()
        try:
            for stream in (1, 2):
                os.dup2(writes, stream)
            yield
        finally:
            _flush()
            for stream, own in zip((1, 2), kept, strict=True):
                os.dup2(own, stream)
                os.close(own)
            os.close(writes)

    def cause(self) -> str:
        """The last error that was printed with a reason, or ""."""
        for line in reversed(self.lines):
            found = _SAID.search(line)
            if found and not any(empty in line for empty in _EMPTY):
                return f"{found[1].rpartition('.')[2]}: {found[2].strip()}"
        return ""

    def _pass_on(self, reads: int, to: int) -> None:
        rest = b""
        try:
            while chunk := os.read(reads, READ_BYTES):
                view = memoryview(chunk)
                while view:
                    view = view[os.write(to, view) :]
                *lines, rest = (rest + chunk).split(b"\n")
                self.lines.extend(line.decode(errors="replace") for line in lines)
                rest = rest[-READ_BYTES:]
        except OSError:  # nobody listens to this host any more
            return
        finally:
            os.close(reads)
            os.close(to)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
