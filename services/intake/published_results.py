"""Published results as readers get them: the tree in RESULTS_DIR, and before it is written the log itself."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mloc.core import codec
from mloc.core.events import AttemptSucceeded, ResultPublished
from mloc.core.task import FINAL, Task
from mloc.services.log.event_log import EventLog
from mloc.services.results.folders import RESULT_FILE, final_folder, is_tree_complete

LARGE_BYTES = 8 * 1024 * 1024  # a larger result is sent on from its file, never held or laid out


class UnsafePath(Exception):
    """A name that would lead out of the task's folder."""


def result_folder(results_dir: Path, task_id: str) -> Path:
    """Where the tree of a task's result is. Raises UnsafePath."""
    if "/" in task_id or "\0" in task_id or task_id.startswith("."):
        raise UnsafePath(f"{task_id!r} is no task id")
    return results_dir / task_id


def is_over(task: Task, now_ms: int) -> bool:
    """Whether the time is over that the result was to be kept; it may leave memory, or have left it, before its files go."""
    return bool(task.expired_ms or (task.ttl_ms and task.phase in FINAL and now_ms >= task.since_ms + task.ttl_ms))


def stored_result(results_dir: Path, task: Task) -> Path | None:
    """`responses.json` of a published task where its tree is on disk: a result of a million rows is sent on from there, not held."""
    file = results_dir / final_folder(task.id, is_shard=task.shard is not None) / RESULT_FILE
    if task.expired_ms:
        return None
    return file if is_tree_complete(results_dir, task) and file.is_file() else None  # not that of an earlier, failed attempt


def large_result(results_dir: Path, task: Task) -> Path | None:
    """The same where it is too large to be held."""
    stored = stored_result(results_dir, task) if task.phase == "published" else None
    return stored if stored is not None and stored.stat().st_size > LARGE_BYTES else None


async def read_result(log: EventLog, results_dir: Path, task: Task) -> bytes | None:
    """`responses.json` of a published task, from the tree or from the log; None where it is in neither. Raises LogUnavailable."""
    if (file := stored_result(results_dir, task)) is not None:
        with contextlib.suppress(OSError):
            return file.read_bytes()
    entry = await log.entry(task.result_id) if task.result_id and not task.expired_ms else None
    event = codec.decode(entry.type, entry.payload) if entry is not None else None
    if isinstance(event, AttemptSucceeded | ResultPublished) and event.result:
        return bytes(event.result)
    return None


def result_file(results_dir: Path, task_id: str, name: str) -> Path | None:
    """A file of a task's result tree by its relative name; None where it is not there. Raises UnsafePath, also for links that lead out."""
    return file_in(result_folder(results_dir, task_id), name)


def file_in(folder: Path, name: str) -> Path | None:
    """A file below a folder; None where it is not there. Raises UnsafePath for a name that leads out, also by a link."""
    if not name or "\0" in name or name.startswith("/") or ".." in Path(name).parts:
        raise UnsafePath(f"{name!r} does not lie in {folder.name}")
    file = folder / name
    try:
        if not file.is_file():
            return None
    except OSError:  # a name that no file can have
        return None
    if not file.resolve().is_relative_to(folder.resolve()):
        raise UnsafePath(f"{name!r} is a link that leads out of {folder.name}")
    return file


def log_text(results_dir: Path, task: Task) -> str:
    """The log lines that were kept with the result: telemetry itself expires. Empty where there are none."""
    try:
        return (results_dir / final_folder(task.id, is_shard=task.shard is not None) / "logs" / "task.log").read_text(errors="replace")
    except OSError:
        return ""
