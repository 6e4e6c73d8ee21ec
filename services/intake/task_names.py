"""What people call a task: its id, its name, or the beginning of its id. The same for the commands beside the log and for the API."""

from __future__ import annotations

from itertools import islice

from mloc.core.cluster import Cluster
from mloc.core.language.errors import did_you_mean
from mloc.core.task import Task
from mloc.services.read_model.task_index import TaskIndex

LIST_THEM = "`mloc-intake list` shows what there is"
_BEGUN = 20  # ids with one start that are counted
_NAMES_FOR_HINTS = 1000


class UnknownTask(Exception):
    """No task has this id or name; the message says so, with the nearest."""


def task_meant(text: str, cluster: Cluster, index: TaskIndex) -> Task:
    """The task of this id, else the newest of this name, else the only one whose id starts so. Raises UnknownTask."""
    known = index.get(text) or index.newest_named(text)
    if known is not None:
        return known
    begun = index.begun(text, _BEGUN + 1)
    if len(begun) == 1:
        return begun[0]
    if begun:
        several = f"at least {len(begun)}" if len(begun) > _BEGUN else str(len(begun))
        more = ", …" if begun[5:] else ""
        raise UnknownTask(f"{text!r} is the start of {several} ids: {', '.join(task.id for task in begun[:5])}{more}")
    newest = islice(reversed(cluster.tasks.values()), _NAMES_FOR_HINTS)
    hint = did_you_mean(text, [name for task in newest for name in (task.id, task.name) if name])
    raise UnknownTask(f"there is no task {text!r}; {hint or LIST_THEM}")
