"""What changed between two points of history: tasks, workers, and the events that did it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from mloc.core import log_ids, moment
from mloc.core.cluster import Cluster
from mloc.core.moment import Moment
from mloc.replay.rebuild import OnProgress, Rebuilt, rebuild
from mloc.services.log.event_log import EventLog

PASSING = frozenset({"since_ms", "order"})  # follow from the others, or say nothing to a person


class Point(Struct, frozen=True):
    """One end of what is compared."""

    position: str
    events: int
    time: str
    digest: str
    counts: dict[str, int]


class Change(Struct, frozen=True, omit_defaults=True):
    """One task or worker that is not as it was. `fields`: name → (before, after), of one that both points know."""

    kind: Literal["task", "worker"]
    id: str
    how: Literal["came", "went", "changed"]
    before: str = ""  # its phase
    after: str = ""
    fields: dict[str, tuple[Any, Any]] = {}


class Difference(Struct, frozen=True):
    """Two points of history, the earlier one first. A task that `went` left memory some time after its end; it is not lost."""

    first: Point
    second: Point
    by_type: dict[str, int]  # events between the two
    changes: tuple[Change, ...]


async def difference(log: EventLog, one: Moment, other: Moment, on_progress: OnProgress | None = None) -> Difference:
    """Fold to each of the two points, in either order, and compare. Raises LogDamaged, LogUnavailable."""
    first, last = sorted([await rebuild(log, one, on_progress), await rebuild(log, other, on_progress)], key=lambda rebuilt: rebuilt.events)
    between = {name: count - first.by_type.get(name, 0) for name, count in last.by_type.items()}
    changes = (
        *_changes("worker", first.cluster.workers, last.cluster.workers),
        *_changes("task", first.cluster.tasks, last.cluster.tasks),
    )
    return Difference(_point(first), _point(last), {name: count for name, count in between.items() if count}, changes)


def _point(rebuilt: Rebuilt) -> Point:
    cluster: Cluster = rebuilt.cluster
    return Point(cluster.position, rebuilt.events, moment.iso(log_ids.time_ms(cluster.position)), cluster.digest(), cluster.counts())


def _changes(kind: Literal["task", "worker"], before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """In the order in which they came to be."""
    found = []
    for id in dict.fromkeys((*before, *after)):
        a, b = before.get(id), after.get(id)
        if a is None or b is None:
            found.append(Change(kind, id, "came" if a is None else "went", "" if a is None else a.phase, "" if b is None else b.phase))
        elif fields := {name: (x, y) for name in a.__struct_fields__ if name not in PASSING and (x := getattr(a, name)) != (y := getattr(b, name))}:
            found.append(Change(kind, id, "changed", a.phase, b.phase, msgspec.to_builtins(fields)))
    return found
