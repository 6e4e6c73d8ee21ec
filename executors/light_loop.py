"""Light tasks, microseconds each: every task that one read brings is answered with one write. One thread, no folders, no engines."""

from __future__ import annotations

import hashlib
import time
from functools import cache

from mloc.core.events import INLINE_RESULT_BYTES, Error
from mloc.core.host_frames import NOT_LIGHT, Failed, Go, HostFrame, Quit, RunTask, Succeeded
from mloc.executors import registry
from mloc.executors.attempt import error_of
from mloc.executors.contract import LightFunction
from mloc.executors.frames import DuplexPipe


def run_light_loop(pipe: DuplexPipe) -> bool:
    """Answer tasks until the worker says Quit (True) or its end of the pipe is gone (False). A stop comes too late for a light task."""
    may_run, waiting = False, []
    while (frames := pipe.receive()) is not None:
        answers: list[HostFrame] = []
        for frame in frames:
            match frame:
                case RunTask() if may_run:
                    answers.append(run_light_task(frame))
                case RunTask():
                    waiting.append(frame)
                case Go():
                    may_run = True
                    answers += map(run_light_task, waiting)
                    waiting.clear()
                case Quit():
                    pipe.send(answers)
                    pipe.drain()
                    return True
        if answers:
            pipe.send(answers)
    return False


def run_light_task(task: RunTask) -> HostFrame:
    """Run one light task. Never raises."""
    began = time.perf_counter()
    try:
        made = _function(task.task_type)(task)
    except Exception as error:  # an executor may raise anything; the host goes on
        return Failed(task.task, task.attempt, error_of(error), _milliseconds(began))
    size = len(made.result)
    if size > INLINE_RESULT_BYTES:
        return Failed(task.task, task.attempt, _too_large(size), _milliseconds(began))
    digest = hashlib.sha256(made.result).hexdigest()
    return Succeeded(task.task, task.attempt, made.result, digest, size, False, _milliseconds(began), made.usage)


@cache
def _function(task_type: str) -> LightFunction:
    return registry.light_function(registry.executor_of(task_type))


def _milliseconds(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)


def _too_large(size: int) -> Error:
    """Its worker runs it again at once where it has a folder for its result."""
    return Error(NOT_LIGHT, f"a light task gives at most {INLINE_RESULT_BYTES} bytes, this one {size}", retryable=True)


