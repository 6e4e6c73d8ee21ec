"""The process that runs executors: started by a worker, told what to do over a pipe, gone with its worker.

`python -m mloc.executors.host --read-fd R --write-fd W [--light]`, as the leader of a process group of its own. Frames are those of
`core.host_frames`; what libraries print goes to stdout and stderr, which the worker reads line by line. One attempt runs at a time, but for
those that share an engine, which run side by side; the host survives those that fail.
SIGTERM and SIGINT do nothing here: the worker decides, by a StopTask or by killing the group.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import msgspec

from mloc.core.events import Error
from mloc.core.host_frames import Failed, Go, HostReady, Quit, RunTask, Stopped, StopTask
from mloc.core.needs.engine_key import is_shared
from mloc.executors.attempt import error_of, run_attempt
from mloc.executors.attempt_stream import AttemptStream
from mloc.executors.engine_facts import engine_key_of
from mloc.executors.engines import Engines
from mloc.executors.frames import DuplexPipe, FrameInput, FrameOutput
from mloc.executors.guard import kill_group, start_guard
from mloc.executors.known_noise import silence_known_noise
from mloc.executors.light_loop import run_light_loop
from mloc.executors.ranks import forget_launcher, launchers_variables_kept

PR_SET_PDEATHSIG = 1


class Sender(Protocol):
    def send(self, frame: Any) -> None: ...


class Host:
    """Runs the attempts that come over the pipe, in the order in which they came; the worker gives several only where they share an engine."""

    def __init__(self, output: Sender, streams: Sequence[AttemptStream] = ()) -> None:
        self._output = output
        self._streams = streams
        self._side_by_side: set[threading.Thread] = set()
        self._tasks: queue.SimpleQueue[RunTask | None] = queue.SimpleQueue()  # None: leave
        self._stopped: set[tuple[str, int]] = set()
        self._go = threading.Event()
        self._engines = Engines(output.send)
        self._devices: tuple[int, ...] | None = None

    def take(self, frame: Any) -> None:
        """A frame from the worker; called on the reading thread."""
        match frame:
            case RunTask():
                self._tasks.put(frame)
            case StopTask():
                self._stopped.add((frame.task, frame.attempt))
            case Go():
                self._go.set()
            case Quit():
                self._go.set()
                self._tasks.put(None)

    def run(self) -> None:
        """Run attempts until told to quit."""
        self._go.wait()
        while (task := self._tasks.get()) is not None:
            if (wrong := self._bind(task)) is not None:
                self._output.send(Failed(task.task, task.attempt, wrong))
            elif _shares_its_engine(task):
                thread = threading.Thread(target=self._run_on_thread, args=(task,), name=f"{task.task}#{task.attempt}", daemon=True)
                self._side_by_side.add(thread)
                thread.start()
            else:
                with launchers_variables_kept():
                    self._finish(task)
        for thread in list(self._side_by_side):
            thread.join()

    def _bind(self, task: RunTask) -> Error | None:
        """The first task settles the devices for the life of this process."""
        if self._devices is None:
            self._devices = task.devices
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, task.devices))
        return _wrong_devices(self._devices, task.devices) if self._devices != task.devices else None

    def _run_on_thread(self, task: RunTask) -> None:
        with ExitStack() as streams:
            for stream in self._streams:
                streams.enter_context(stream.of(task.task, task.attempt))
            try:
                self._finish(task)
            except BaseException as error:  # a library that would end the process ends only the attempt: others are in it
                self._output.send(Failed(task.task, task.attempt, error_of(error)))
        self._side_by_side.discard(threading.current_thread())

    def _finish(self, task: RunTask) -> None:
        self._output.send(self._run(task))
        self._stopped.discard((task.task, task.attempt))

    def _run(self, task: RunTask) -> Any:
        def stopping() -> bool:
            return (task.task, task.attempt) in self._stopped

        if stopping():
            return Stopped(task.task, task.attempt, "asked to stop before it began")
        return run_attempt(task, self._engines, stopping, self._output.send)


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    worker = os.getppid()
    start_guard(options.read_fd)
    _die_with(worker)
    for ignored in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ignored, lambda *_: None)  # not SIG_IGN: programs that executors start would inherit that
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if options.light:
        _run_light(options.read_fd, options.write_fd)
    else:
        _run_heavy(options.read_fd, options.write_fd)
    _leave()


def _run_light(read_fd: int, write_fd: int) -> None:
    pipe = DuplexPipe(read_fd, write_fd)
    pipe.send([HostReady(os.getpid())])
    if not run_light_loop(pipe):
        kill_group()


def _run_heavy(read_fd: int, write_fd: int) -> None:
    forget_launcher()
    _set_up_libraries()
    output = FrameOutput(write_fd)
    streams = [AttemptStream(stream, output.send) for stream in (sys.stdout, sys.stderr)]
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    host = Host(output, streams)
    FrameInput(read_fd, host.take, on_end=kill_group)
    output.send(HostReady(os.getpid()))
    host.run()
    output.close()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mloc.executors.host", description="Runs executors for a worker; not started by hand.")
    parser.add_argument("--read-fd", type=int, required=True, help="pipe with frames from the worker")
    parser.add_argument("--write-fd", type=int, required=True, help="pipe for frames to the worker")
    parser.add_argument("--light", action="store_true", help="only light tasks, in batches, on one thread")
    return parser.parse_args(arguments)


def _die_with(worker: int) -> None:
    """Linux: the kernel kills this process when the thread of the worker that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != worker:  # it died before the line above
        kill_group()


def _set_up_libraries() -> None:
    """No progress bars in the log, no threads of a tokenizer that forks, no reports to anybody outside, no spinning.

    Threads of OpenMP spin while they wait for each other: with another process on the same cores, a step took five times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "warning")
    silence_known_noise()


def _shares_its_engine(task: RunTask) -> bool:
    try:
        return is_shared(engine_key_of(task))
    except msgspec.MsgspecError:  # the attempt itself says what is wrong with the spec
        return False


def _wrong_devices(bound: tuple[int, ...], asked: tuple[int, ...]) -> Error:
    return Error("WrongDevices", f"this host holds the devices {list(bound)}, the task asks for {list(asked)}", retryable=True)


def _leave() -> None:
    """End at once: threads and engines of libraries may take long to be taken down, and nothing of them is needed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
