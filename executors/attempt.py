"""One attempt inside the host: the executor's reports become frames, and whatever it raises becomes a failure that a person can read."""

from __future__ import annotations

import errno
import hashlib
import os
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import msgspec

from mloc.core.events import INLINE_RESULT_BYTES, Error
from mloc.core.host_frames import CheckpointDone, Failed, HostFrame, RowsDone, RunTask, Stopped, Succeeded, Telemetry
from mloc.core.language.errors import LanguageError
from mloc.executors import registry
from mloc.executors.contract import Checkpoint, Context, ExecutorError, Progress, Report, Result, ResultFile, Rows
from mloc.executors.durable_files import write_durably
from mloc.executors.engine_facts import engine_key_of, identity_of, states_device_memory
from mloc.executors.engines import MAX_ENGINES, MAX_ENGINES_ON_DEVICE, Engines

RESULT_FILE = "responses.json"
MAX_MESSAGE = 2000
MAX_TRACEBACK_LINES = 12

Send = Callable[[Any], None]


def run_attempt(task: RunTask, engines: Engines, stopping: Callable[[], bool], send: Send) -> HostFrame:
    """Run the attempt to its end; reports go out through `send`. Returns its last frame: Succeeded, Failed or Stopped. Never raises."""
    began = time.monotonic()
    ended: list[Result | ResultFile] = []

    def report(said: Report) -> None:
        if isinstance(said, Result | ResultFile):
            ended.append(said)
        else:
            send(_frame_of(task, said))

    try:
        context = _context(task, stopping, report)
        executor = registry.executor_of(task.task_type)
        with _engine(task, context, executor, engines) as engine:
            if not stopping():
                for said in registry.run_function(executor)(task, engine, context):
                    report(said)
        if ended:
            return _succeeded(task, ended[-1], began)
        if stopping():
            return Stopped(task.task, task.attempt, "asked to stop")
        raise ExecutorError("NoResult", f"the executor of {task.task_type} ended without a result")
    except Exception as error:  # an executor may raise anything; the host goes on
        if not isinstance(error, ExecutorError):
            send(Telemetry(task.task, task.attempt, lines=tuple(_last_lines(error))))
        return Failed(task.task, task.attempt, error_of(error), _milliseconds(began))


def error_of(error: BaseException) -> Error:
    """What a person reads of an exception, and whether trying again can help: not for what the task itself gets wrong."""
    match error:
        case ExecutorError():
            return Error(error.type, error.message[:MAX_MESSAGE], error.retryable)
        case msgspec.MsgspecError():
            return Error("BadSpec", f"the task's spec does not fit its type: {error}"[:MAX_MESSAGE], retryable=False)
        case LanguageError():
            return Error("BadSpec", str(error)[:MAX_MESSAGE], retryable=False)
        case ImportError():
            return Error("MissingDependency", f"{error} (on the worker; `mloc doctor` says how to get it)"[:MAX_MESSAGE], retryable=False)
        case FileNotFoundError() | IsADirectoryError() | NotADirectoryError():
            return Error("FileNotFound", f"{error.strerror or error}: {error.filename}"[:MAX_MESSAGE], retryable=False)
        case _ if _is_out_of_memory(error):
            remedy = "smaller batches, gradient_checkpointing, a shorter max_length, or a worker with more"
            cause = f" ({words.partition('. ')[0]})" if (words := str(error)) else ""
            return Error("OutOfMemory", f"the memory was not enough{cause}: {remedy}"[:MAX_MESSAGE], retryable=True)
        case _ if _is_disk_full(error):
            return Error("DiskFull", f"the worker's disk is full ({error}): make room in its RESULTS_DIR"[:MAX_MESSAGE], retryable=True)
    return Error(type(error).__name__, str(error)[:MAX_MESSAGE] or type(error).__name__, retryable=True)


def _is_out_of_memory(error: BaseException) -> bool:
    """Torch says it by an exception of its own for devices, and in words for main memory."""
    if isinstance(error, MemoryError):
        return True
    return type(error).__name__ == "OutOfMemoryError" or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def _is_disk_full(error: BaseException) -> bool:
    """Also where a library (safetensors, torch) raises an exception of its own with the system's words in it."""
    return (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or os.strerror(errno.ENOSPC) in str(error)


def _context(task: RunTask, stopping: Callable[[], bool], report: Callable[[Report], None]) -> Context:
    return Context(
        folder=Path(task.folder), final_folder=Path(task.final_folder or task.folder), rows_folder=Path(task.rows_folder or task.folder),
        inputs=task.inputs, devices=tuple(range(len(task.devices))), shard=task.shard,
        checkpoint=Path(task.checkpoint) if task.checkpoint else None, seed=task.seed, stopping=stopping, report=report,
        fetched=task.fetched, cache_folder=Path(task.cache_folder) if task.cache_folder else None,
    )  # fmt: skip


def _engine(task: RunTask, context: Context, executor: registry.Executor, engines: Engines) -> AbstractContextManager[Any]:
    load = registry.load_function(executor)
    key = engine_key_of(task) if load else ""
    if load is None or not key:
        return nullcontext()
    most = MAX_ENGINES_ON_DEVICE if context.devices else MAX_ENGINES
    of = registry.identities_function(executor)
    identities = of(task, context) if of else [identity_of(task, key)]
    has_place = bool(context.devices) and states_device_memory(task)
    return engines.lease(key, identities, lambda: load(task, context), most, context.stopping, has_place=has_place)


def _frame_of(task: RunTask, said: Progress | Rows | Checkpoint) -> HostFrame:
    match said:
        case Progress():
            return Telemetry(task.task, task.attempt, said.lines, said.step, said.total_steps, said.metrics)
        case Rows():
            return RowsDone(task.task, task.attempt, said.part, said.rows, said.sha256)
        case Checkpoint():
            return CheckpointDone(task.task, task.attempt, said.step, str(said.path), said.sha256)


def _succeeded(task: RunTask, ended: Result | ResultFile, began: float) -> Succeeded:
    if isinstance(ended, ResultFile):
        return Succeeded(
            task.task, task.attempt, b"", ended.sha256, ended.size_bytes, files=True, duration_ms=_milliseconds(began), usage=ended.usage
        )
    result = msgspec.json.encode(ended.value)
    usage = ended.value.get("usage", {})
    if len(result) <= INLINE_RESULT_BYTES and not ended.files:
        digest = hashlib.sha256(result).hexdigest()
        return Succeeded(task.task, task.attempt, result, digest, len(result), duration_ms=_milliseconds(began), usage=usage)
    digest, size = write_durably(Path(task.folder) / RESULT_FILE, [result])
    return Succeeded(task.task, task.attempt, b"", digest, size, files=True, duration_ms=_milliseconds(began), usage=usage)


def _milliseconds(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 3)


def _last_lines(error: BaseException) -> list[str]:
    lines = "".join(traceback.format_exception(error)).splitlines()
    return [line.replace(os.getcwd() + os.sep, "") for line in lines[-MAX_TRACEBACK_LINES:]]
