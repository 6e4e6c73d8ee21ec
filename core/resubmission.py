"""A submission once more: a task of the log under new ids, as if its file had been submitted again; or the same events, where no answer came."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from mloc.core.events import Event, TaskSubmitted
from mloc.core.needs.engine_key import engine_key


def submitted_again(
    family: Sequence[TaskSubmitted], new_id: Callable[[str], str], met: Mapping[str, str]
) -> tuple[tuple[TaskSubmitted, ...], dict[str, str]]:
    """The same tasks under new ids, parents first, and old id → new id.

    `family` is a task with all its stages, the task first; `met` names the results of tasks outside of it that are published: id → entry.
    The ids of stages follow from their pipeline's, as at their first submission."""
    root = family[0]
    ids = {root.task: new_id(root.name or root.kind)}
    for event in family[1:]:
        ids[event.task] = f"{ids[root.task]}{event.task.removeprefix(root.task)}" if event.task.startswith(root.task) else new_id(event.name)
    return tuple(_again(event, family, ids, met) for event in family), ids


def sent_again(events: Sequence[Event]) -> list[Event]:
    """The same events under the same ids, for who got no answer and does not know whether the log has them."""
    return [replace(event, sent_before=True) if isinstance(event, TaskSubmitted) else event for event in events]


def _again(event: TaskSubmitted, family: Sequence[TaskSubmitted], ids: Mapping[str, str], met: Mapping[str, str]) -> TaskSubmitted:
    depends_on = tuple(ids.get(id, id) for id in event.depends_on)
    stages = {other.stage: ids[other.task] for other in family if other.stage and other.task in event.depends_on}
    need = event.need
    if need is not None and need.engine and stages:
        need = replace(need, engine=engine_key(event.task_type, bytes(event.spec), stages))
    return replace(
        event, task=ids[event.task], parent=ids.get(event.parent, ""), children=tuple(ids[id] for id in event.children), depends_on=depends_on,
        met={id: met[id] for id in depends_on if id in met}, need=need, idempotency_key="", body_sha256="", sent_before=False,
    )  # fmt: skip
