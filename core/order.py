"""The order in which ready tasks get a worker: priority first, then age. One heap for each distinct need.

A million tasks that wait for a worker which is not there must not slow the dispatch of another: who decides walks the queues in order and
leaves a whole need aside once it found no place for it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from mloc.core.events import Need
from mloc.core.task import Task

Ordered = TypeVar("Ordered", bound=tuple[Any, ...])
Rank = tuple[int, int, str]  # (-priority, order of submission, task id)


def rank(task: Task) -> Rank:
    return -task.priority, task.order, task.id


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


class ReadyQueues:
    """The ranks of ready tasks by need. An index: it can be built anew from the tasks."""

    def __init__(self) -> None:
        self._heaps: dict[Need, list[Rank]] = {}

    def add(self, task: Task) -> None:
        assert task.need is not None
        heapq.heappush(self._heaps.setdefault(task.need, []), rank(task))

    def trim(self, need: Need, tasks: Mapping[str, Task]) -> None:
        """Drop from the front of a need's queue what is not ready any more."""
        heap = self._heaps.get(need)
        while heap and not _is_current(heap[0], tasks):
            heapq.heappop(heap)
        if heap is not None and not heap:
            del self._heaps[need]

    def copy(self) -> ReadyQueues:
        other = ReadyQueues()
        other._heaps = {need: list(heap) for need, heap in self._heaps.items()}
        return other

    def needs(self) -> tuple[Need, ...]:
        return tuple(self._heaps)

    def in_order(self, tasks: Mapping[str, Task], closed: set[Need]) -> Iterator[Task]:
        """Ready tasks, best first over all needs; a need that the caller puts into `closed` meanwhile is left aside."""
        fronts: list[tuple[Rank, int]] = []
        walks = []
        for number, (need, heap) in enumerate(self._heaps.items()):
            walk = ascending(heap)
            walks.append((need, walk))
            heapq.heappush(fronts, (next(walk), number))
        previous = ""
        while fronts:
            found, number = heapq.heappop(fronts)
            need, walk = walks[number]
            if need in closed:
                continue
            if found[2] != previous and _is_current(found, tasks):
                previous = found[2]  # a task that came back may stand twice, side by side
                yield tasks[found[2]]
            following = next(walk, None)
            if following is not None and need not in closed:
                heapq.heappush(fronts, (following, number))


def _is_current(found: Rank, tasks: Mapping[str, Task]) -> bool:
    task = tasks.get(found[2])
    return task is not None and task.phase == "ready" and task.priority == -found[0] and task.order == found[1]
