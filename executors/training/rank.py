"""The process of one rank of a training: `python -m mloc.executors.training.rank --read-fd R --write-fd W`, started by `rank_launch.py`.

It reads one RunTask, runs it as a host would, and ends. When the pipe from the host ends, so does it.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import threading
from typing import Any

from mloc.core.host_frames import RunTask, StopTask
from mloc.executors.attempt import run_attempt
from mloc.executors.engines import Engines
from mloc.executors.frames import FrameInput, FrameOutput
from mloc.executors.known_noise import silence_known_noise


def main() -> None:
    parser = argparse.ArgumentParser(prog="mloc.executors.training.rank", description="One rank of a training; not started by hand.")
    parser.add_argument("--read-fd", type=int, required=True, help="pipe with frames from the host")
    parser.add_argument("--write-fd", type=int, required=True, help="pipe for frames to the host")
    options = parser.parse_args()
    tasks: queue.SimpleQueue[RunTask] = queue.SimpleQueue()
    stop = threading.Event()

    def take(frame: Any) -> None:
        if isinstance(frame, RunTask):
            tasks.put(frame)
        elif isinstance(frame, StopTask):
            stop.set()

    silence_known_noise()
    FrameInput(options.read_fd, take, on_end=lambda: os._exit(1))
    output = FrameOutput(options.write_fd)
    output.send(run_attempt(tasks.get(), Engines(lambda _: None), stop.is_set, output.send))
    output.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
