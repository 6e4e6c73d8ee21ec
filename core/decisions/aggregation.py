"""The aggregator's `decide`: what is to be published. Pure and level-triggered, like the scheduler's.

A small result without files is published as soon as the log shows it; a publication's `cause` is the entry that holds the result. Files are
moved, and shards merged, by effects that the shell runs off its loop; the end of an effect is an input of the next round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from mloc.core.cluster import Cluster
from mloc.core.events import Event, ResultPublished, raw
from mloc.core.task import Task


class Effect(Struct, frozen=True, gc=False):
    """Work on files: `publish` moves an attempt's folder into place, `merge` joins the shards' results. Doing it twice does no harm."""

    kind: Literal["publish", "merge"]
    task: str
    attempt: int


class Done(Struct, frozen=True, gc=False):
    """The end of an effect: the merged result, inline or as the digest of the published file."""

    result: bytes = b""
    sha256: str = ""
    size_bytes: int = 0
    files: bool = False


def decide(cluster: Cluster, done: Mapping[Effect, Done], max_answers: int = 256) -> tuple[list[Event], list[Effect]]:
    """Publications that are due, and effects that they wait for (asked for again until their end is in `done`)."""
    events: list[Event] = []
    effects: list[Effect] = []
    for id in cluster.phase("succeeded"):
        if len(events) >= max_answers:
            break
        task = cluster.tasks[id]
        effect = effect_of(task)
        if effect is None:
            events.append(_publication(cluster, task))
        elif (end := done.get(effect)) is not None:
            events.append(
                ResultPublished(
                    cause=task.result_id, task=id, attempt=task.result_attempt, result=raw(end.result), sha256=end.sha256,
                    size_bytes=end.size_bytes, files=end.files,
                )
            )  # fmt: skip
        else:
            effects.append(effect)
    return events, effects


def effect_of(task: Task) -> Effect | None:
    """What must be done on disk before the task's result is published."""
    if task.children:
        return Effect("merge", task.id, 0) if is_sharded(task) else None
    return Effect("publish", task.id, task.result_attempt) if task.result_files else None


def is_sharded(task: Task) -> bool:
    """Whether the task's children are shards (a pipeline has no task type)."""
    return bool(task.children and task.task_type)


def _publication(cluster: Cluster, task: Task) -> ResultPublished:
    if not task.children:
        return ResultPublished(cause=task.result_id, task=task.id, attempt=task.result_attempt)
    stages = {}
    for id in task.children:
        child = cluster.tasks.get(id)
        stages[child.stage if child and child.stage else id] = {"task_id": id, "ok": True}
    return ResultPublished(task=task.id, result=raw(msgspec.json.encode({"ok": True, "task_id": task.id, "stages": stages})))
