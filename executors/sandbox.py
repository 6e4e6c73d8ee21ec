"""Runs Python that a user or a model wrote, in a child process that can do little harm: for rewards of type `python` and an agent's Python tool.

    with Sandbox(Limits(call_sec=5)) as sandbox:
        sandbox.run("def double(x): return 2 * x")   # names stay for later calls
        sandbox.call("double", 21).value             # 42: arguments and values are JSON
        sandbox.run("print('hi'); 6 * 7").output     # 'hi\\n42\\n': the last expression is shown, as an interpreter does

The child (`sandbox_child.py`) has an empty folder as its own, an environment without anything of ours, limits on memory, files and time,
and no network. `isolation` says by what means, as a person may need to know, and `held` names what the kernel itself holds; where it lets
this user make no namespaces and knows no seccomp, Python alone refuses the network. What goes wrong inside is an `Answer` with `error`, never
an exception; a child that took too long or died is replaced before the next call, and its names are gone (`lost`). Not for several threads at
once. It ends with the thread that made it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from msgspec import Struct

from mloc.executors.system_calls import refusing_program

CHILD = Path(__file__).with_name("sandbox_child.py")
START_SEC = 60.0  # to start the interpreter, on a machine that is busy
LOOK_SEC = 0.2  # how often a waiting call asks whether it should stop
MAX_ANSWER_BYTES = 16 << 20
OPEN_FILES = 256


class Limits(Struct, frozen=True):
    """What the child may use. `files_bytes`: of one file, and of all together where the folder is in memory."""

    call_sec: float = 5.0
    memory_bytes: int = 2 << 30  # of address space: numpy alone takes a few hundred MiB
    files_bytes: int = 64 << 20
    processes: int = 64
    output_chars: int = 10_000  # what is kept of what is printed
    network: bool = False
    programs: bool = True  # further processes and programs, and signals


class Answer(Struct, frozen=True):
    """What came of a call. `error` is empty where it went well, else one line with the place in the code."""

    value: Any = None
    output: str = ""
    error: str = ""
    lost: bool = False  # the child was ended: names that were defined before are gone

    @property
    def ok(self) -> bool:
        return not self.error


class Sandbox:
    """One child, started at the first call. `folder`: an own folder that stays afterwards, in place of an empty one that goes.

    `readable`: more paths that the code may read. `stopping`: asked while a call runs; true ends it.
    """

    def __init__(
        self, limits: Limits | None = None, *, folder: Path | None = None, readable: tuple[Path, ...] = (),
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self.limits = limits or Limits()
        self._kept, self._readable, self._stopping = folder, readable, stopping
        self._child: subprocess.Popen[bytes] | None = None
        self._told: dict[str, str] = {}
        self._held: frozenset[str] = frozenset()
        self._own: str | None = None
        self._output = self._answers = -1
        self._pending = b""

    def run(self, code: str, timeout_sec: float | None = None) -> Answer:
        """Run statements in the child's one namespace."""
        return self._ask({"run": code}, timeout_sec)

    def call(self, name: str, *arguments: Any, timeout_sec: float | None = None, **named: Any) -> Answer:
        """Call a function that was defined before."""
        return self._ask({"call": name, "arguments": arguments, "named": named}, timeout_sec)

    @property
    def isolation(self) -> dict[str, str]:
        """What holds the code back, by subject (network, files, processes), in words; starts the child where there is none."""
        self._start()
        return dict(self._told)

    @property
    def held(self) -> frozenset[str]:
        """What the kernel holds, of `files`, `network` and `calls`; starts the child where there is none."""
        self._start()
        return self._held

    def close(self) -> None:
        """End the child and everything that it started."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            assert self._child.stdin is not None
            with contextlib.suppress(OSError):  # what it was still to read is in the buffer, and nobody reads it any more
                self._child.stdin.close()
            os.close(self._answers)
            os.close(self._output)
            self._child = None
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            self._own = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], timeout_sec: float | None) -> Answer:
        allowed = self.limits.call_sec if timeout_sec is None else timeout_sec
        try:
            block = json.dumps(request).encode() + b"\n"
            self._start()
            os.ftruncate(self._output, 0)
            answer = self._exchange(block, time.monotonic() + allowed)
        except TypeError as error:
            return Answer(error=f"the arguments are not JSON: {error}")
        except TimeoutError:
            return self._ended("it was stopped" if self._stopping() else f"it took longer than {allowed:g} s")
        except (OSError, EOFError, ValueError) as error:
            return self._ended(self._cause_of_death(error))
        return Answer(answer.get("value"), self._printed(), answer.get("error", ""))

    def _ended(self, why: str) -> Answer:
        printed = self._printed()
        self.close()
        return Answer(output=printed, error=why, lost=True)

    def _cause_of_death(self, error: Exception) -> str:
        if self._child is None:
            return f"the sandbox could not be started: {error}"
        with contextlib.suppress(subprocess.TimeoutExpired):  # it lives: the last line says what was wrong with its answer
            code = self._child.wait(1)
            number = -code if code < 0 else code - 128
            ended_by = signal.Signals(number).name if number in set(signal.Signals) else f"exit code {code}"
            return f"its process ended ({ended_by})"
        return f"its process gave no answer that can be read: {error}"

    def _printed(self) -> str:
        if self._output < 0 or self._child is None:
            return ""
        most = self.limits.output_chars
        text = os.pread(self._output, most * 4 + 4, 0).decode("utf-8", "replace")
        return text if len(text) <= most else f"{text[:most]}\n[cut after {most} characters]"

    def _start(self) -> None:
        if self._child is not None:
            return
        if self._kept is None:
            self._own = tempfile.mkdtemp(prefix="mloc-sandbox-")
        folder = self._own or str(self._kept)
        with tempfile.TemporaryFile() as output:
            self._output = os.dup(output.fileno())
        fcntl.fcntl(self._output, fcntl.F_SETFL, fcntl.fcntl(self._output, fcntl.F_GETFL) | os.O_APPEND)
        self._answers, into = os.pipe()
        self._pending = b""
        limits = self.limits
        asked = {
            "folder": folder, "in_memory": self._own is not None, "readable": [str(path) for path in self._readable], "answers": into,
            "memory_bytes": limits.memory_bytes, "files_bytes": limits.files_bytes, "processes": limits.processes, "open_files": OPEN_FILES,
            "network": limits.network, "parent": os.getpid(),
            "refusing": refusing_program(platform.machine(), network=limits.network, programs=limits.programs).hex(),
        }  # fmt: skip
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0",
        }  # fmt: skip
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-u", "-X", "utf8", str(CHILD), json.dumps(asked)], stdin=subprocess.PIPE, stdout=self._output,
                stderr=self._output, cwd=folder, env=environment, pass_fds=(into,), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(into)
        told = self._exchange(b"", time.monotonic() + START_SEC)
        self._told, self._held = told["isolation"], frozenset(told["held"])

    def _exchange(self, block: bytes, deadline: float) -> dict[str, Any]:
        """Write a request, read its answer: a line of JSON. Raises TimeoutError, EOFError, OSError, ValueError."""
        assert self._child is not None
        assert self._child.stdin is not None
        to_child = self._child.stdin.fileno()
        os.set_blocking(to_child, False)
        while b"\n" not in self._pending:
            if (left := deadline - time.monotonic()) <= 0 or self._stopping():
                raise TimeoutError
            readable, writable, _ = select.select([self._answers], [to_child] if block else [], [], min(left, LOOK_SEC))
            if writable:
                block = block[os.write(to_child, block[:65536]) :]
            if readable:
                chunk = os.read(self._answers, 1 << 20)
                if not chunk:
                    raise EOFError("the pipe ended")
                self._pending += chunk
                if len(self._pending) > MAX_ANSWER_BYTES:
                    raise ValueError(f"an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
        line, _, self._pending = self._pending.partition(b"\n")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("not an answer")
        return answer
