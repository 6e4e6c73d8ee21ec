"""Which tasks a list shows: filters, order and page, for the API and the commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice

from msgspec import Struct

from mloc.core.cluster import Cluster
from mloc.core.task import STATUS, Task

MAX_PAGE_SIZE = 500
SORTS = ("newest", "oldest", "priority", "ended", "name")
_PHASES_OF_STATUS = {status: [p for p, s in STATUS.items() if s == status] for status in set(STATUS.values())}
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class QueryError(Exception):
    """A filter that cannot be used; the message says which and what it takes."""


class TaskQuery(Struct, frozen=True):
    """Empty fields filter nothing. `phases` None: all. `parent` "none": only tasks that are part of nothing."""

    phases: frozenset[str] | None = None
    kind: str = ""
    owner: str = ""
    project: str = ""
    worker: str = ""
    parent: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    since_ms: int = 0
    sort: str = "newest"
    page: int = 1
    page_size: int = 50


class TaskPage(Struct, frozen=True):
    tasks: list[Task]
    total: int


def parse_query(fields: Mapping[str, str], labels: Iterable[str], now_ms: int) -> TaskQuery:
    """A query from texts. Raises QueryError."""
    sort = fields.get("sort", "newest")
    if sort not in SORTS:
        raise QueryError(f"sort takes {', '.join(SORTS)}, not {sort!r}")
    return TaskQuery(
        phases=_phases(fields.get("state", "") or fields.get("status", "")),
        kind=fields.get("kind", ""), owner=fields.get("owner", ""), project=fields.get("project", ""), worker=fields.get("worker", ""),
        parent=fields.get("parent", ""), labels=tuple(_label(text) for text in labels), since_ms=_since(fields.get("since", ""), now_ms),
        sort=sort, page=_number(fields, "page", 1, 1_000_000), page_size=_number(fields, "page_size", 50, MAX_PAGE_SIZE),
    )  # fmt: skip


def find_tasks(cluster: Cluster, query: TaskQuery) -> TaskPage:
    """The page, and how many tasks there are over all pages."""
    start = (query.page - 1) * query.page_size
    if query == TaskQuery(page=query.page, page_size=query.page_size):  # no filter: the dict has the order of submission
        return TaskPage(list(islice(reversed(cluster.tasks.values()), start, start + query.page_size)), len(cluster.tasks))
    found = [task for task in _candidates(cluster, query) if _matches(task, query)]
    match query.sort:
        case "newest":
            found.sort(key=lambda task: task.order, reverse=True)
        case "oldest":
            found.sort(key=lambda task: task.order)
        case "priority":
            found.sort(key=lambda task: (-task.priority, task.order))
        case "ended":
            found.sort(key=lambda task: task.ended_ms, reverse=True)
        case "name":
            found.sort(key=lambda task: (task.name, task.order))
    return TaskPage(found[start : start + query.page_size], len(found))


def _candidates(cluster: Cluster, query: TaskQuery) -> Iterator[Task]:
    if query.phases is None:
        yield from cluster.tasks.values()
        return
    for phase in query.phases:
        for id in cluster.phase(phase):
            yield cluster.tasks[id]


def _matches(task: Task, query: TaskQuery) -> bool:
    return (
        (not query.kind or query.kind.lower() in (task.kind.lower(), task.task_type))
        and (not query.owner or task.owner == query.owner)
        and (not query.project or task.project == query.project)
        and (not query.worker or task.worker == query.worker)
        and (not query.parent or task.parent == ("" if query.parent == "none" else query.parent))
        and task.submitted_ms >= query.since_ms
        and all(task.labels.get(name) == value for name, value in query.labels)
    )


def _phases(text: str) -> frozenset[str] | None:
    if not text:
        return None
    phases: set[str] = set()
    for name in text.split(","):
        if name.upper() in _PHASES_OF_STATUS:
            phases.update(_PHASES_OF_STATUS[name.upper()])
        elif name.lower() in STATUS:
            phases.add(name.lower())
        else:
            raise QueryError(f"state takes {', '.join(STATUS)} or {', '.join(sorted(_PHASES_OF_STATUS))}, not {name!r}")
    return frozenset(phases)


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise QueryError(f"label takes NAME=VALUE, not {text!r}")
    return name, value


def _since(text: str, now_ms: int) -> int:
    """`15m`, `2h`, `1d`, an ISO 8601 time, or milliseconds since 1970."""
    if not text:
        return 0
    if text[-1] in _AGES and text[:-1].isdecimal():
        return now_ms - int(text[:-1]) * _AGES[text[-1]] * 1000
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise QueryError(f"since takes an age (15m, 2h, 1d) or an ISO 8601 time, not {text!r}") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _number(fields: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = fields.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise QueryError(f"{name} takes a whole number from 1 to {most:,}, not {text!r}")
    return int(text)
