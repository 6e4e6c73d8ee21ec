"""What a worker and its host process say to each other: frozen Structs, framed as a 4-byte big-endian length and msgpack.

The worker writes `WorkerFrame`s, the host writes `HostFrame`s, each down a pipe of its own (never stdout or stderr: libraries print there).
A host touches no device before it was told `Go`: by then its worker has written it into the ledger.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from mloc.core.events import Error

NOT_LIGHT = "NotLight"  # type of the error of a light host that asks its worker to run the task in a host of its own
MAX_FRAME_BYTES = 64 * 1024 * 1024
HEADER_BYTES = 4


class RunTask(Struct, frozen=True, tag=True, omit_defaults=True, gc=False):
    """Run one attempt. Several may be in flight for light tasks; a host runs them in the order in which they came."""

    task: str
    attempt: int
    task_type: str
    spec: bytes  # JSON of the task's spec, references resolved
    folder: str = ""  # the attempt's folder, absolute; made by whoever writes into it first
    final_folder: str = ""  # where the published result will lie, absolute
    rows_folder: str = ""  # durable rows of earlier attempts of the same task, absolute
    shard: tuple[int, int] | None = None  # (index, count)
    inputs: dict[str, Any] = {}  # stage name → {"task_id", "folder", "result"}
    devices: tuple[int, ...] = ()
    checkpoint: str = ""  # newest checkpoint of an earlier attempt, absolute path
    seed: int = 0
    fetched: dict[str, str] = {}  # path or URL in the spec → where the worker has it on this disk
    cache_folder: str = ""  # for what can be made again and later tasks may use, absolute


class Go(Struct, frozen=True, tag=True, gc=False):
    """The ledger holds this host's pid: it may touch its devices."""


class StopTask(Struct, frozen=True, tag=True, gc=False):
    """Stop the attempt cleanly at its next step; the worker kills the host after `grace_sec`."""

    task: str
    attempt: int
    reason: str = ""
    grace_sec: float = 10.0


class Quit(Struct, frozen=True, tag=True, gc=False):
    """Leave once nothing runs."""


WorkerFrame = RunTask | Go | StopTask | Quit


class HostReady(Struct, frozen=True, tag=True, gc=False):
    """The host's imports are done (or not needed yet); it waits for `Go`."""

    pid: int


class EngineLoaded(Struct, frozen=True, tag=True, omit_defaults=True, gc=False):
    """An engine is warm (`loaded`; `woke`: it was asleep), or left its device (`asleep`) or the host (neither). `takes_several`: tasks at a time."""

    engine: str
    seconds: float
    loaded: bool = True
    woke: bool = False
    asleep: bool = False
    takes_several: bool = False


class Telemetry(Struct, frozen=True, tag=True, omit_defaults=True, gc=False):
    """Log lines and metric points of one attempt. Many, short-lived, never in the control log."""

    task: str
    attempt: int
    lines: tuple[str, ...] = ()
    step: int = 0
    total_steps: int = 0
    metrics: dict[str, float] = {}  # names as the library gives them: loss, learning_rate, tokens_per_sec


class RowsDone(Struct, frozen=True, tag=True, gc=False):
    """Rows are on disk (fsynced) in a part of the rows folder."""

    task: str
    attempt: int
    part: str
    rows: int
    sha256: str


class CheckpointDone(Struct, frozen=True, tag=True, gc=False):
    task: str
    attempt: int
    step: int
    path: str
    sha256: str = ""


class Succeeded(Struct, frozen=True, tag=True, omit_defaults=True, gc=False):
    """The attempt's result. Above 64 KiB, or with files, it is fsynced as `responses.json` in the attempt's folder and `result` is empty."""

    task: str
    attempt: int
    result: bytes = b""  # JSON
    sha256: str = ""
    size_bytes: int = 0
    files: bool = False
    duration_ms: float = 0.0
    usage: dict[str, Any] = {}


class Failed(Struct, frozen=True, tag=True, omit_defaults=True, gc=False):
    task: str
    attempt: int
    error: Error
    duration_ms: float = 0.0


class Stopped(Struct, frozen=True, tag=True, gc=False):
    task: str
    attempt: int
    reason: str = ""


HostFrame = HostReady | EngineLoaded | Telemetry | RowsDone | CheckpointDone | Succeeded | Failed | Stopped

_encode = msgspec.msgpack.Encoder().encode
_decode_worker = msgspec.msgpack.Decoder(list[WorkerFrame]).decode
_decode_host = msgspec.msgpack.Decoder(list[HostFrame]).decode


class FrameError(Exception):
    """The bytes on the pipe are no frame of this program."""


def encode_frames(frames: list[Any]) -> bytes:
    """Several frames as one length-prefixed block; a batch costs one write and one read."""
    body = _encode(frames)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a block of {len(body)} bytes is larger than the {MAX_FRAME_BYTES} bytes that the pipe takes")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class FrameReader:
    """Cuts a byte stream into blocks of frames; feed it what was read, in any pieces. A piece that holds whole blocks is not copied."""

    def __init__(self, *, from_host: bool) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._wanted = HEADER_BYTES  # less than this cannot be a block
        self._decode = _decode_host if from_host else _decode_worker

    def feed(self, chunk: bytes) -> list[Any]:
        """All frames that are complete now. Raises FrameError on what is no frame."""
        self._pieces.append(chunk)
        self._size += len(chunk)
        if self._size < self._wanted:
            return []
        received = memoryview(chunk if len(self._pieces) == 1 else b"".join(self._pieces))
        frames: list[Any] = []
        begin = 0
        while self._size - begin >= HEADER_BYTES:
            end = begin + HEADER_BYTES + _block_size(received[begin : begin + HEADER_BYTES])
            if end > self._size:
                break
            try:
                frames += self._decode(received[begin + HEADER_BYTES : end])
            except msgspec.MsgspecError as error:
                raise FrameError(str(error)) from error
            begin = end
        self._keep(bytes(received[begin:]))
        return frames

    def _keep(self, rest: bytes) -> None:
        self._pieces = [rest] if rest else []
        self._size = len(rest)
        self._wanted = HEADER_BYTES + _block_size(rest[:HEADER_BYTES]) if len(rest) >= HEADER_BYTES else HEADER_BYTES


def _block_size(header: bytes | memoryview) -> int:
    size = int.from_bytes(header, "big")
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"a block says that it has {size} bytes")
    return size
