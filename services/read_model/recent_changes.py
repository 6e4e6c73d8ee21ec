"""Which tasks changed lately, with their values: what a list must take from memory, because the read model may not have it yet."""

from __future__ import annotations

from collections.abc import Callable

from mloc.core import log_ids
from mloc.core.cluster import Cluster
from mloc.core.task import Task
from mloc.services.read_model.rows import rank

MOST = 100_000  # changes that are remembered; only a read model that stands still lets them become so many


class RecentChanges:
    """`note` is called after every batch of a fold; what changed before its first call counts as changed."""

    def __init__(self, position: Callable[[], str]) -> None:
        self._position = position  # of the read model, for forgetting what it has
        self._cluster: Cluster | None = None
        self._from = log_ids.START  # later changes are all known
        self._changed: dict[str, tuple[str, Task]] = {}  # task → (position of a batch that changed it, value), latest last

    def note(self, cluster: Cluster) -> None:
        if cluster is not self._cluster:
            self._cluster, self._from = cluster, cluster.position
            self._changed.clear()
            cluster.touched = {}
            return
        for id, (_, task) in (cluster.touched or {}).items():
            self._changed.pop(id, None)
            self._changed[id] = (cluster.position, task)
        cluster.touched = {}
        if len(self._changed) > MOST:
            self._forget()

    def since(self, cluster: Cluster, position: str) -> dict[int, Task]:
        """By rank, the tasks whose values may differ from those at `position`, as `cluster` has them."""
        self.note(cluster)
        changed: dict[int, Task] = {}
        if log_ids.before(position, self._from):
            changed = {rank(task): task for task in cluster.tasks.values()}
        for at, task in reversed(self._changed.values()):
            if not log_ids.before(position, at):
                break
            changed[rank(task)] = task
        return changed

    def is_lacking(self, position: str) -> bool:
        """Whether tasks that changed after `position` may have left memory unseen."""
        return log_ids.before(position, self._from)

    def _forget(self) -> None:
        """What the read model has, else the older half: those that left memory too are then missing until it has them."""
        position = self._position()
        kept = [(id, one) for id, one in self._changed.items() if log_ids.before(position, one[0])]
        self._changed = dict(kept if len(kept) <= MOST // 2 else kept[-MOST // 2 :])
        if len(kept) > MOST // 2:
            self._from = kept[-MOST // 2][1][0]
