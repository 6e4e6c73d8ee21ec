"""The tool `python_repl`: a Python for the agent, in the sandbox. Names and files stay from call to call of one question.

What the kernel has to hold for it is files (Landlock), network and system calls (seccomp); where a machine cannot, nothing runs, unless who
wrote the task asked for `isolation: best_effort`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from langchain_core.tools import BaseTool, StructuredTool
from msgspec import Struct

from mloc.core.language.quantities import QuantityError, size_bytes
from mloc.executors.agents.tools.toolbox import Kind, Place
from mloc.executors.contract import ExecutorError
from mloc.executors.sandbox import Answer, Limits, Sandbox

SAID = (
    "Runs Python code and gives what it prints and the value of its last line. Names and files stay for the next call. "
    "There is no network, and no other program can be run."
)
HELD = {"files": "other files can be reached", "network": "the network can be reached", "calls": "system calls are not held back"}


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`timeout` in seconds for a call, `memory` and `folder` (all files together) as sizes, `output` in characters."""

    timeout: float = 10.0
    memory: str | int = "1Gi"
    folder: str | int = "64Mi"
    output: int = 4000
    isolation: Literal["required", "best_effort"] = "required"


class Repl:
    """One interpreter, on a thread of its own: the child ends with the thread that started it."""

    def __init__(self, options: Options, place: Place) -> None:
        self._options, self._place = options, place
        self._most = _size(options.folder)
        self._thread = ThreadPoolExecutor(1, "python_repl")
        self._sandbox = Sandbox(_limits(options), folder=place.folder, stopping=self._over)

    def close(self) -> None:
        self._thread.submit(self._sandbox.close).result()
        self._thread.shutdown()

    def run(self, code: str) -> str:
        """What an interpreter would show. Raises ExecutorError where the machine cannot hold it."""
        return self._thread.submit(self._run, code).result()

    def _run(self, code: str) -> str:
        lacking = [words for subject, words in HELD.items() if subject not in self._sandbox.held]
        if lacking and self._options.isolation == "required":
            asks = "ask for it with {python_repl: {isolation: best_effort}} where the task is trusted"
            raise ExecutorError("NotIsolated", f"python_repl does not run on this worker, because {' and '.join(lacking)}; {asks}")
        answer = self._sandbox.run(code, min(self._options.timeout, max(0.1, self._place.left_sec())))
        if used_bytes(self._place.folder) > self._most:
            _empty(self._place.folder)
            answer = Answer(output=answer.output, error=f"the files were more than {self._options.folder}, and are gone", lost=answer.lost)
        return _shown(answer)

    def _over(self) -> bool:
        return self._place.over() or used_bytes(self._place.folder) > self._most


def _make(options: Options, place: Place, stack: ExitStack) -> Iterable[BaseTool]:
    repl = Repl(options, place)
    stack.callback(repl.close)

    def python_repl(code: str) -> str:
        return repl.run(code)

    return [StructuredTool.from_function(python_repl, description=SAID)]


def used_bytes(folder: Path) -> int:
    """Of all files below."""
    size = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # its code removed it meanwhile
                size += os.lstat(os.path.join(at, name)).st_size
    return size


def _shown(answer: Answer) -> str:
    lost = " (what was defined before is gone)" if answer.lost else ""
    parts = [answer.output.rstrip(), f"error: {answer.error}{lost}" if answer.error else ""]
    return "\n".join(part for part in parts if part) or "(nothing was printed)"


def _limits(options: Options) -> Limits:
    return Limits(
        call_sec=options.timeout, memory_bytes=_size(options.memory), files_bytes=_size(options.folder), output_chars=options.output, programs=False
    )


def _empty(folder: Path) -> None:
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # gone, or not ours to remove: the next look at the size tells
                os.unlink(os.path.join(at, name))


def _size(written: str | int) -> int:
    try:
        return size_bytes(written)
    except QuantityError as error:
        raise ExecutorError("BadSetting", f"agent.tools: python_repl: a size is {error}") from error


def _check(options: Options, _: object) -> None:
    _limits(options)
    _size(options.folder)


KIND = Kind(Options, _make, _check)
