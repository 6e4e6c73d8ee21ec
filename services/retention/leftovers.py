"""What attempts left below RESULTS_DIR/.attempts of tasks that have ended: failed attempts, rows that were merged, trees that were replaced.
And what was uploaded for such tasks to name.

A dead-lettered task keeps its own, since a retry goes on with its rows and checkpoints. What no log knows and no published result vouches for is
kept too: the folder may belong to another cell.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from mloc.core.cluster import Cluster
from mloc.core.task import FINAL
from mloc.services.artifacts.inputs import Uploaded
from mloc.services.results.folders import ATTEMPTS, final_folder, is_tree_complete, sealed
from mloc.services.results.uploads import has_uploads

SETTLED_SEC = 600.0  # after the end: stops, late reports and the tree have come by then
UNKNOWN_SEC = 24 * 3600.0  # since the last change of a folder whose task has left memory
PAUSE_SEC = 0.02  # after each folder: many deletions at once make new files slow for everybody


class Leftover(Struct, frozen=True):
    """A folder that can go."""

    task: str
    size_bytes: int
    files: int


class Cleanup(Struct, frozen=True):
    """What went, or would go. `kept` counts folders whose tasks still need them; `expiring` results that go by themselves (`ttl_sec`), the
    first of them at `next_expiry_ms` (since 1970)."""

    dry_run: bool
    folders: int
    size_bytes: int
    kept: int
    tasks: tuple[str, ...]
    inputs: tuple[str, ...] = ()  # below RESULTS_DIR
    expiring: int = 0
    next_expiry_ms: int | None = None


def is_over(cluster: Cluster, results_dir: Path, task_id: str, now_ms: int, settled_sec: float = SETTLED_SEC) -> bool:
    """Whether nobody needs what the attempts of a task left."""
    if has_uploads(results_dir, task_id):  # they are nobody's leftovers: a result takes them in
        return False
    if task_id in cluster.tasks:
        return has_settled(cluster, results_dir, task_id, now_ms, settled_sec)
    return was_published(results_dir, task_id) and _is_old(results_dir / ATTEMPTS / task_id, now_ms)


def is_input_over(cluster: Cluster, results_dir: Path, one: Uploaded, now_ms: int, settled_sec: float = SETTLED_SEC) -> bool:
    """The same of an uploaded input: whether none of the tasks that name it needs it any more."""
    if not one.tasks or now_ms / 1000 - one.touched <= settled_sec:  # those that no task ever named expire by themselves
        return False
    is_long_ago = now_ms / 1000 - one.touched > UNKNOWN_SEC
    return all(
        has_settled(cluster, results_dir, task, now_ms, settled_sec) if task in cluster.tasks
        else bool(task) and is_long_ago and was_published(results_dir, task)
        for task in one.tasks
    )  # fmt: skip


def has_settled(cluster: Cluster, results_dir: Path, task_id: str, now_ms: int, settled_sec: float = SETTLED_SEC) -> bool:
    """Whether a task that is in memory, and all that it is a part of, has ended for good, so long ago, its result being where people look for it."""
    task = cluster.tasks[task_id]
    family = [cluster.tasks[id] for id in _upwards(task_id) if id in cluster.tasks]
    if any(one.phase not in FINAL or now_ms - one.since_ms < settled_sec * 1000 for one in family):
        return False
    if any(key[0] == task_id for key in cluster.holdings.of(task.worker)):
        return False
    return task.phase != "published" or task.shard is not None or bool(task.expired_ms) or is_tree_complete(results_dir, task)


def was_published(results_dir: Path, task_id: str) -> bool:
    """Of a task that left memory: whether its tree, or that of what it is a part of, says so."""
    trees = (sealed(results_dir / final_folder(id)) for id in _upwards(task_id))
    return any(seal is not None and seal[1] for seal in trees)


def names(results_dir: Path) -> list[str]:
    """The tasks of which something was left."""
    try:
        with os.scandir(results_dir / ATTEMPTS) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."))
    except FileNotFoundError:
        return []


def measured(results_dir: Path, tasks: Iterable[str]) -> Iterator[Leftover]:
    """Their sizes; what goes meanwhile counts nothing."""
    for task in tasks:
        size = files = 0
        for folder, _, found in os.walk(results_dir / ATTEMPTS / task):
            for name in found:
                try:
                    size += os.lstat(f"{folder}/{name}").st_size
                    files += 1
                except FileNotFoundError:
                    continue
        yield Leftover(task, size, files)


def remove(results_dir: Path, tasks: Iterable[str], sleep: Callable[[float], None] = time.sleep) -> None:
    """One after the other, slowly. Raises OSError where a folder cannot be removed."""
    for task in tasks:
        shutil.rmtree(results_dir / ATTEMPTS / task, ignore_errors=False, onerror=_unless_gone)
        sleep(PAUSE_SEC)


def _unless_gone(function: object, path: str, error: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def _is_old(folder: Path, now_ms: int) -> bool:
    """Whether nothing in it changed for long."""
    try:
        changed = max(os.stat(folder).st_mtime, *_times_below(folder))
    except FileNotFoundError:
        return False
    return now_ms / 1000 - changed > UNKNOWN_SEC


def _times_below(folder: Path) -> Iterator[float]:
    yield 0.0
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.stat(follow_symlinks=False).st_mtime


def _upwards(task_id: str) -> Iterator[str]:
    """The task, and all that it is a part of."""
    while task_id:
        yield task_id
        task_id = task_id.rpartition(".")[0]
