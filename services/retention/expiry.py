"""The aggregator removes the files of results whose `ttl_sec` is over; the task, its history and what it used stay."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import structlog

from mloc.core.cluster import Cluster
from mloc.core.decisions import expiry
from mloc.core.events import Event
from mloc.services.results.folders import ATTEMPTS

PAUSE_SEC = 0.02  # after each tree: many deletions at once make new files slow for everybody
RETRY_SEC = 10.0


class Expiry:
    """`written_ms` says up to when the trees of results are on disk: one that is still to be written is not removed before. `on_done` wakes the
    service's loop."""

    def __init__(self, results_dir: Path, written_ms: Callable[[], int], on_done: Callable[[], None]) -> None:
        self._results_dir = results_dir
        self._written_ms = written_ms
        self._on_done = on_done
        self._removed: set[str] = set()
        self._removing: asyncio.Task[None] | None = None
        self._say = structlog.get_logger().bind(service="aggregator")

    def decide(self, cluster: Cluster, now_ms: int) -> list[Event]:
        """What the log is told now; goes on removing."""
        if not cluster.expiring or cluster.expiring[0][0] > now_ms:
            self._removed.clear()
            return []
        events, removals = expiry.decide(cluster, now_ms, self._removed)
        if removals and (self._removing is None or self._removing.done()):
            written_ms = self._written_ms()
            ready = [id for id in removals if (task := cluster.tasks.get(id)) is None or task.since_ms <= written_ms]
            if ready:
                self._removing = asyncio.create_task(self._remove(ready))
        return events

    async def close(self) -> None:
        """What is left is removed after the next start."""
        if self._removing is not None:
            self._removing.cancel()
            await asyncio.gather(self._removing, return_exceptions=True)

    async def _remove(self, tasks: list[str]) -> None:
        for task in tasks:
            try:
                await asyncio.to_thread(remove_result, self._results_dir, task)
                self._removed.add(task)
                await asyncio.sleep(PAUSE_SEC)
            except OSError as error:
                self._say.error("an expired result cannot be removed and is tried again", task=task, reason=error.strerror or str(error))
                await asyncio.sleep(RETRY_SEC)
        self._on_done()


def remove_result(results_dir: Path, task: str) -> None:
    """Its tree, at once as readers see it, and what its attempts left. Raises OSError."""
    tree, attempts = results_dir / task, results_dir / ATTEMPTS / task
    if tree.is_dir():
        going = results_dir / ATTEMPTS / f".expired-{task}"
        going.parent.mkdir(exist_ok=True)
        if going.exists():
            shutil.rmtree(going)
        tree.rename(going)
    for folder in (results_dir / ATTEMPTS / f".expired-{task}", attempts):
        if folder.exists():
            shutil.rmtree(folder)
