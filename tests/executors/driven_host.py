"""A real executor host, driven over its pipes as a worker would drive it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mloc.core.host_frames import FrameReader, Go, HostReady, RunTask, StopTask, encode_frames

DEADLINE_SEC = 170.0
VLLM_DEADLINE_SEC = 600.0  # its engine takes minutes to start on two busy cores


class DrivenHost:
    """Starts a host in a process group of its own; `close` kills what is left of the group."""

    def __init__(self, *, light: bool = False, go: bool = True, deadline_sec: float = DEADLINE_SEC, environ: dict[str, str] | None = None) -> None:
        self._deadline_sec = deadline_sec
        from_test, self._to_host = os.pipe()
        self._from_host, to_test = os.pipe()
        command = [sys.executable, "-m", "mloc.executors.host", "--read-fd", str(from_test), "--write-fd", str(to_test)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1", **(environ or {})}
        self.child = subprocess.Popen(
            command + ["--light"] * light, pass_fds=(from_test, to_test), start_new_session=True, env=environment, stdin=subprocess.DEVNULL
        )
        os.close(from_test)
        os.close(to_test)
        self._reader = FrameReader(from_host=True)
        self.frames: list[Any] = []
        if go:
            self.send(Go())

    def send(self, *frames: Any) -> None:
        block = encode_frames(list(frames))
        while block:
            block = block[os.write(self._to_host, block) :]

    def wait_for(self, wanted: Callable[[Any], bool]) -> Any:
        """The first frame, of all so far and to come, for which `wanted` holds."""
        seen = 0
        deadline = time.monotonic() + self._deadline_sec
        while True:
            for frame in self.frames[seen:]:
                if wanted(frame):
                    return frame
            seen = len(self.frames)
            if not select.select([self._from_host], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"no such frame within {self._deadline_sec} s; there were {self.frames}")
            if not (chunk := os.read(self._from_host, 1 << 20)):
                raise EOFError(f"the host ended; its frames were {self.frames}")
            self.frames += self._reader.feed(chunk)

    def wait_of(self, kind: type, task: str = "") -> Any:
        return self.wait_for(lambda frame: isinstance(frame, kind) and (not task or frame.task == task))

    def ready(self) -> HostReady:
        return self.wait_of(HostReady)

    def stop(self, task: str, attempt: int = 1) -> None:
        self.send(StopTask(task, attempt, "a test asks"))

    def close_pipe(self) -> None:
        """What the host sees when its worker dies."""
        os.close(self._to_host)
        self._to_host = -1

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        for descriptor in (self._to_host, self._from_host):
            if descriptor >= 0:
                os.close(descriptor)


def task(name: str, task_type: str = "echo", folder: Path | None = None, attempt: int = 1, **spec: Any) -> RunTask:
    """A RunTask as a worker makes it; with a folder, attempt and result lie below it. Fields of RunTask go under `run_`."""
    of_run = {key.removeprefix("run_"): spec.pop(key) for key in list(spec) if key.startswith("run_")}
    if folder is not None:
        of_run = {
            "folder": str(folder / ".attempts" / name / str(attempt)),
            "final_folder": str(folder / name),
            "rows_folder": str(folder / ".rows" / name),
            **of_run,
        }
    return RunTask(task=name, attempt=attempt, task_type=task_type, spec=json.dumps({"taskType": task_type, **spec}).encode(), **of_run)


def processes_of(host: DrivenHost, title: str) -> list[int]:
    """Those of vLLM's processes in the host's group whose title has that word."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != host.child.pid:
            try:
                group = int((folder / "stat").read_text().rpartition(")")[2].split()[2])
                command = (folder / "cmdline").read_text()
            except (OSError, IndexError):
                continue
            if group == host.child.pid and title in command and "VLLM" in command:
                found.append(int(folder.name))
    return found


def is_gone(pid: int) -> bool:
    """Whether a process ended; one that nobody has reaped yet counts as ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    except ProcessLookupError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def wait_until(condition: Callable[[], bool], deadline_sec: float = 20.0) -> None:
    deadline = time.monotonic() + deadline_sec
    while not condition():
        assert time.monotonic() < deadline, "the deadline passed"
        time.sleep(0.01)
