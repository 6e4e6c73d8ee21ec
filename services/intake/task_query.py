"""Which tasks a list shows: filters, order and page, for the API and the commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from msgspec import Struct

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
    cursor: str = ""  # goes on after a page, instead of `page`


class TaskPage(Struct, frozen=True):
    """`total` is over all pages. `next_cursor` is empty on the last one; `warnings` say what the list may lack."""

    tasks: list[Task]
    total: int
    total_is_at_least: bool = False
    next_cursor: str = ""
    warnings: tuple[str, ...] = ()


def parse_query(fields: Mapping[str, str], labels: Iterable[str], now_ms: int) -> TaskQuery:
    """A query from texts. Raises QueryError."""
    sort = fields.get("sort", "newest")
    if sort not in SORTS:
        raise QueryError(f"sort takes {', '.join(SORTS)}, not {sort!r}")
    if fields.get("state") and fields.get("status"):
        raise QueryError("state and status are one filter: give one of them, several values with commas")
    return TaskQuery(
        phases=_phases(fields.get("state", "") or fields.get("status", "")),
        kind=fields.get("kind", ""), owner=fields.get("owner", ""), project=fields.get("project", ""), worker=fields.get("worker", ""),
        parent=fields.get("parent", ""), labels=tuple(_label(text) for text in labels), since_ms=_since(fields.get("since", ""), now_ms),
        sort=sort, page=_number(fields, "page", 1, 1_000_000), page_size=_number(fields, "page_size", 50, MAX_PAGE_SIZE),
        cursor=fields.get("cursor", ""),
    )  # fmt: skip


def matches(task: Task, query: TaskQuery) -> bool:
    """Whether the list shows it, on some page."""
    return (
        (query.phases is None or task.phase in query.phases)
        and (not query.kind or query.kind.lower() in (task.kind.lower(), task.task_type))
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
