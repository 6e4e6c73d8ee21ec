"""The host's end of the pipe: frames from the worker come in on a thread of their own; frames to it never hold up the work for long.

Telemetry is dropped when the worker does not keep up, and the next telemetry of that attempt says how much; nothing else ever is.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from mloc.core.host_frames import FrameReader, Telemetry, encode_frames

READ_BYTES = 256 * 1024
MAX_QUEUED_TELEMETRY = 2000


class FrameInput:
    """Gives every frame that the worker sends to `on_frame`, on a thread; `on_end` when the pipe ended."""

    def __init__(self, descriptor: int, on_frame: Callable[[Any], None], on_end: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_frame = on_frame
        self._on_end = on_end
        threading.Thread(target=self._read, name="frames-in", daemon=True).start()

    def _read(self) -> None:
        reader = FrameReader(from_host=False)
        try:
            while chunk := os.read(self._descriptor, READ_BYTES):
                for frame in reader.feed(chunk):
                    self._on_frame(frame)
        finally:
            self._on_end()


class FrameOutput:
    """Takes frames without waiting and writes them on a thread, as many at a time as there are."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._queue: deque[Any] = deque()
        self._telemetry = 0  # queued
        self._dropped: dict[tuple[str, int], int] = {}  # attempt → lines and points not queued
        self._changed = threading.Condition()
        self._closing = False
        self._writer = threading.Thread(target=self._write, name="frames-out", daemon=True)
        self._writer.start()

    def send(self, frame: Any) -> None:
        with self._changed:
            if isinstance(frame, Telemetry) and (kept := self._keep(frame)) is None:
                return
            self._queue.append(kept if isinstance(frame, Telemetry) else frame)
            self._changed.notify()

    def close(self) -> None:
        """Write what is queued, then end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._writer.join()

    def _keep(self, frame: Telemetry) -> Telemetry | None:
        attempt = (frame.task, frame.attempt)
        if self._telemetry >= MAX_QUEUED_TELEMETRY:
            self._dropped[attempt] = self._dropped.get(attempt, 0) + max(1, len(frame.lines))
            return None
        self._telemetry += 1
        dropped = self._dropped.pop(attempt, 0)
        return msgspec.structs.replace(frame, lines=(f"(dropped {dropped} lines)", *frame.lines)) if dropped else frame

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                frames = list(self._queue)
                self._queue.clear()
                self._telemetry = 0
            write_all(self._descriptor, encode_frames(frames))


def write_all(descriptor: int, block: bytes) -> None:
    """Write every byte to a blocking pipe."""
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]


class DuplexPipe:
    """Both directions on one thread, never blocked in a write while the other side waits for a read: for batches of light tasks."""

    def __init__(self, read_descriptor: int, write_descriptor: int, max_unsent: int = 8 * 1024 * 1024) -> None:
        os.set_blocking(read_descriptor, False)
        os.set_blocking(write_descriptor, False)
        self._in, self._out = read_descriptor, write_descriptor
        self._reader = FrameReader(from_host=False)
        self._unsent = bytearray()
        self._max_unsent = max_unsent
        self._poll = select.poll()
        self._poll.register(self._in, select.POLLIN)

    def send(self, frames: Iterable[Any]) -> None:
        """Write at once what the pipe takes; the rest goes out while waiting for frames."""
        self._unsent += encode_frames(list(frames))
        self._flush()

    def receive(self) -> list[Any] | None:
        """Wait for frames; None when the pipe ended."""
        while True:
            reading = len(self._unsent) < self._max_unsent
            self._poll.modify(self._in, select.POLLIN if reading else 0)
            if self._unsent:
                self._poll.register(self._out, select.POLLOUT)
            events = dict(self._poll.poll())
            if self._unsent:
                self._poll.unregister(self._out)
                self._flush()
            if self._in in events:
                chunk = os.read(self._in, READ_BYTES) if reading or events[self._in] & select.POLLIN else b""
                if not chunk:
                    return None
                if frames := self._reader.feed(chunk):
                    return frames

    def drain(self) -> None:
        """Write everything that is left."""
        os.set_blocking(self._out, True)
        write_all(self._out, bytes(self._unsent))
        self._unsent.clear()

    def _flush(self) -> None:
        try:
            while self._unsent:
                sent = os.write(self._out, self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            return
