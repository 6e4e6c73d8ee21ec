"""The receivers that wait to be told, in lanes by where they live: one that is dead or slow keeps only its own lane waiting."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from mloc.core.callbacks import Callback
from mloc.core.order import ascending

AT_ONCE, AT_ONCE_FAILING = 8, 2  # calls to one place; where the first in line failed before

Key = tuple[str, str]  # task, what


class Calls:
    """An index over the tasks' callbacks; only the fold changes it."""

    def __init__(self) -> None:
        self._open: dict[Key, Callback] = {}  # oldest first
        self._lanes: dict[str, list[tuple[int, str, str]]] = {}  # heaps of (due, task, what); those that changed since are left out

    def __len__(self) -> int:
        return len(self._open)

    def keep(self, task: str, callback: Callback) -> None:
        """The callback's present value."""
        key, lane = (task, callback.receiver.what), _lane(callback.receiver.url)
        if callback.state == "due":
            self._open[key] = callback
            heapq.heappush(self._lanes.setdefault(lane, []), (callback.due_ms, *key))
        elif self._open.pop(key, None) is None:
            return
        heap = self._lanes.get(lane, [])
        while heap and not self._is_present(heap[0]):
            heapq.heappop(heap)
        if not heap:
            self._lanes.pop(lane, None)

    def due(self, now_ms: int) -> Iterator[tuple[str, Callback]]:
        """(task, callback), of each place as many as may be called at once."""
        for heap in self._lanes.values():
            room = 0
            for item in ascending(heap):
                if item[0] > now_ms:
                    break
                if not self._is_present(item):
                    continue
                callback = self._open[item[1:]]
                room = room or (AT_ONCE_FAILING if callback.tries else AT_ONCE)
                yield item[1], callback
                room -= 1
                if not room:
                    break

    def oldest(self) -> Iterator[tuple[str, Callback]]:
        for (task, _), callback in self._open.items():
            yield task, callback

    def next_due_ms(self) -> int | None:
        return min((heap[0][0] for heap in self._lanes.values()), default=None)

    def copy(self) -> Calls:
        other = Calls()
        other._open = dict(self._open)
        other._lanes = {lane: list(heap) for lane, heap in self._lanes.items()}
        return other

    def _is_present(self, item: tuple[int, str, str]) -> bool:
        callback = self._open.get(item[1:])
        return callback is not None and callback.due_ms == item[0]


def _lane(url: str) -> str:
    """Scheme and host. Places that are secrets share a lane."""
    return "/".join(url.split("/", 3)[:3])
