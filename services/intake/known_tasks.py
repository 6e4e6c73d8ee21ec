"""Finds the tasks that a new one depends on: by id or name in the cluster state and the read model, else among the published results on disk."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from mloc.core.cluster import Cluster
from mloc.core.language.errors import did_you_mean
from mloc.services.intake.published_results import UnsafePath, result_folder
from mloc.services.intake.submission import DependencyError, Found
from mloc.services.read_model.task_index import TaskIndex, newest_named
from mloc.services.results.folders import RESULT_FILE

_NAMES_FOR_HINTS = 1000


class KnownTasks:
    """Tasks of this cluster state and of `index`; without one, those that left memory are known by their result in `results_dir`."""

    def __init__(self, cluster: Cluster, results_dir: Path, index: TaskIndex | None = None) -> None:
        self._cluster = cluster
        self._index = index
        self._results_dir = results_dir

    def find(self, id_or_name: str) -> Found:
        """The task of this id, else the newest of this name. Raises DependencyError."""
        task = self._cluster.tasks.get(id_or_name) or newest_named(self._cluster, id_or_name)
        if task is None and self._index is not None:
            task = self._index.get(id_or_name) or self._index.newest_named(id_or_name)
        if task is None:
            if self._has_result(id_or_name):
                return Found(id_or_name, "")
            raise DependencyError(f"there is no task with the id or name {id_or_name!r}", self._hint(id_or_name))
        if task.phase in ("cancelled", "timed_out"):
            how = "was cancelled" if task.phase == "cancelled" else "timed out"
            raise DependencyError(f"the task {task.id} {how}, so nothing can wait for it", "submit it again first")
        if task.expired_ms:
            raise DependencyError(f"the result of {task.id} was kept for {task.ttl_ms / 1000:g} s only and is gone", "submit it again first")
        return Found(task.id, task.result_id if task.phase == "published" else None)

    def _has_result(self, id: str) -> bool:
        try:
            return (result_folder(self._results_dir, id) / RESULT_FILE).is_file()
        except (UnsafePath, ValueError, OSError):
            return False

    def _hint(self, word: str) -> str:
        newest = list(islice(reversed(self._cluster.tasks.values()), _NAMES_FOR_HINTS))
        return did_you_mean(word, [name for task in newest for name in (task.id, task.name) if name]) or "`mloc-intake list` shows what there is"
