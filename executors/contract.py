"""What an executor is: one generator function `run(task, engine, context)` that yields reports, and `load(...)` where an engine stays warm.

`run` yields `Progress`, `Rows` and `Checkpoint` as it goes and ends with one `Result` or `ResultFile`. Where a library calls back from
inside its own loop, the callback says the same through `context.report`. An executor asks `context.stopping()` at every step; when it is
true it makes durable what it has and returns without a result. What goes wrong is an `ExecutorError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from mloc.core.host_frames import RunTask


class ExecutorError(Exception):
    """Why a task failed, for the person who wrote it: what happened, where, what to do. `retryable`: can trying again help?"""

    def __init__(self, type_: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.type = type_
        self.message = message
        self.retryable = retryable


class Progress(Struct, frozen=True, omit_defaults=True):
    """Log lines and metric points, for whoever watches; may be dropped under pressure."""

    lines: tuple[str, ...] = ()
    step: int = 0
    total_steps: int = 0
    metrics: dict[str, float] = {}


class Rows(Struct, frozen=True):
    """`rows` more rows are durable in the file `part` of the rows folder, whose bytes so far have this digest."""

    part: str
    rows: int
    sha256: str


class Checkpoint(Struct, frozen=True):
    """A checkpoint folder is complete and durable."""

    step: int
    path: Path
    sha256: str = ""


class Result(Struct, frozen=True, omit_defaults=True):
    """The task's result as it will stand in `responses.json`. `files`: the attempt's folder holds artifacts that belong to it."""

    value: dict[str, Any]
    files: bool = False


class ResultFile(Struct, frozen=True):
    """The executor wrote `responses.json` into the attempt's folder itself, durably."""

    sha256: str
    size_bytes: int
    usage: dict[str, Any]


Report = Progress | Rows | Checkpoint | Result | ResultFile


class Context(Struct, frozen=True):
    """Where an attempt reads and writes, and what it may use. Paths are absolute; folders are made by whoever first writes into them."""

    folder: Path  # this attempt's own folder
    final_folder: Path  # where the folder's content will lie once the result is published
    rows_folder: Path  # durable rows, shared by the attempts of this task
    inputs: Mapping[str, Any]  # stage name → {"task_id", "folder", "result"}
    devices: tuple[int, ...]  # accelerators that it may use, numbered from 0 as torch sees them; none: CPU
    shard: tuple[int, int] | None  # (index, count): this attempt does the index-th contiguous range of the items
    checkpoint: Path | None  # complete checkpoint of an earlier attempt, to go on from
    seed: int
    stopping: Callable[[], bool]
    report: Callable[[Report], None]  # the same as yielding, for callbacks
    fetched: Mapping[str, str] = {}  # path or URL in the spec → where it lies on this disk
    cache_folder: Path | None = None  # for what can be made again and later tasks may use

    @property
    def artifacts(self) -> Path:
        """The attempt's folder for files that belong to the result."""
        return self.folder / "artifacts"

    def local(self, named: str) -> str:
        """What the spec names, on this disk: URLs, and paths of other machines, were fetched before the attempt."""
        return self.fetched.get(named, named)

    def as_named(self, local: str) -> str:
        """The other way round: what the spec calls something on this disk; paths of a cache mean nothing to others."""
        return next((named for named, path in self.fetched.items() if path == local), local)

    def final_path(self, path: Path) -> str:
        """Where a file of this attempt's folder will lie once published; results name files so."""
        return str(self.final_folder / path.relative_to(self.folder))


class LightResult(Struct, frozen=True, gc=False):
    """What a light executor gives back: the result as JSON, and its usage."""

    result: bytes
    usage: dict[str, Any]


RunFunction = Callable[[RunTask, Any, Context], Iterator[Report]]
LoadFunction = Callable[[RunTask, Context], Any]
IdentitiesFunction = Callable[[RunTask, Context], Sequence[str]]  # what a warm engine may be made of to serve; `load` makes the first
LightFunction = Callable[[RunTask], LightResult]
