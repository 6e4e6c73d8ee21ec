"""The order in which ready tasks get a worker: priority first, then age. One queue for each distinct need.

A million tasks that wait for a worker which is not there must not slow the dispatch of another: who decides walks the queues in order and
leaves a whole need aside once it found no place for it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from mloc.core.events import Need
from mloc.core.task import Task

Ordered = TypeVar("Ordered", bound=tuple[Any, ...])
Rank = tuple[int, int, int, str]  # (-priority, order of submission, number of the shard, task id)


def rank(task: Task) -> Rank:
    return -task.priority, task.order, task.shard[0] if task.shard else 0, task.id


def ascending(heap: list[Ordered]) -> Iterator[Ordered]:
    """The items of a heap from the smallest up, without changing it; the first k cost O(k log k)."""
    if not heap:
        return
    frontier: list[tuple[Ordered, int]] = [(heap[0], 0)]
    while frontier:
        item, at = heapq.heappop(frontier)
        yield item
        for child in (2 * at + 1, 2 * at + 2):
            if child < len(heap):
                heapq.heappush(frontier, (heap[child], child))


class _Queue:
    """Ranks in order. Most tasks come in their turn and are kept as a run; the few that overtake others wait in a heap."""

    __slots__ = ("others", "run")

    def __init__(self) -> None:
        self.run: deque[Rank] = deque()
        self.others: list[Rank] = []

    def add(self, one: Rank) -> None:
        if not self.run or one > self.run[-1]:
            self.run.append(one)
        else:
            heapq.heappush(self.others, one)

    def trim(self, tasks: Mapping[str, Task]) -> None:
        """Drop from the front what is not ready any more."""
        run, others = self.run, self.others
        while run and not _is_current(run[0], tasks):
            run.popleft()
        while others and not _is_current(others[0], tasks):
            heapq.heappop(others)

    def ascending(self) -> Iterator[Rank]:
        return heapq.merge(self.run, ascending(self.others)) if self.others else iter(self.run)

    def copy(self) -> _Queue:
        other = _Queue()
        other.run, other.others = self.run.copy(), list(self.others)
        return other


class ReadyQueues:
    """The ranks of ready tasks by need. An index: it can be built anew from the tasks."""

    def __init__(self) -> None:
        self._queues: dict[Need, _Queue] = {}

    def add(self, task: Task) -> None:
        assert task.need is not None
        queue = self._queues.get(task.need)
        if queue is None:
            queue = self._queues[task.need] = _Queue()
        queue.add(rank(task))

    def trim(self, need: Need, tasks: Mapping[str, Task]) -> None:
        """Drop from the front of a need's queue what is not ready any more."""
        queue = self._queues.get(need)
        if queue is not None:
            queue.trim(tasks)
            if not queue.run and not queue.others:
                del self._queues[need]

    def copy(self) -> ReadyQueues:
        other = ReadyQueues()
        other._queues = {need: queue.copy() for need, queue in self._queues.items()}
        return other

    def needs(self) -> tuple[Need, ...]:
        return tuple(self._queues)

    def in_order(self, tasks: Mapping[str, Task], closed: set[Need]) -> Iterator[Task]:
        """Ready tasks, best first over all needs; a need that the caller puts into `closed` meanwhile is left aside."""
        fronts: list[tuple[Rank, int]] = []
        walks = []
        for number, (need, queue) in enumerate(self._queues.items()):
            walk = queue.ascending()
            walks.append((need, walk))
            heapq.heappush(fronts, (next(walk), number))
        previous = ""
        while fronts:
            found, number = heapq.heappop(fronts)
            need, walk = walks[number]
            if need in closed:
                continue
            if found[3] != previous and _is_current(found, tasks):
                previous = found[3]  # a task that came back may stand twice, side by side
                yield tasks[found[3]]
            following = next(walk, None)
            if following is not None and need not in closed:
                heapq.heappush(fronts, (following, number))


def _is_current(found: Rank, tasks: Mapping[str, Task]) -> bool:
    task = tasks.get(found[3])
    return task is not None and task.phase == "ready" and task.priority == -found[0] and task.order == found[1]
