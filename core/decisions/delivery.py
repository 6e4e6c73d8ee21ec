"""From decisions to answers: what each event puts into or takes out of a worker's inbox when it is committed."""

from __future__ import annotations

import msgspec

from mloc.core.answers import Answer, Dispatch, InputRef, is_delivered
from mloc.core.cluster import Cluster
from mloc.core.events import AttemptRecalled, AttemptStopRequested, Event, TaskDispatched
from mloc.core.task import Task

_encode = msgspec.json.Encoder().encode


def answer(cluster: Cluster, event: Event) -> Answer:
    """The event with its delivery, from the state that it was decided on."""
    match event:
        case TaskDispatched():
            dispatch = _dispatch(cluster, cluster.tasks[event.task])
            return Answer(event, (event.worker, event.incarnation), _encode(dispatch))
        case AttemptStopRequested():
            assert is_delivered(event)
            return Answer(event, (event.worker, event.incarnation))
        case AttemptRecalled():
            return Answer(event, (event.worker, event.incarnation), recall=event.cause)
        case _:
            return Answer(event)


def _dispatch(cluster: Cluster, task: Task) -> Dispatch:
    need = task.need
    return Dispatch(
        task.task_type, msgspec.Raw(cluster.spec_of(task)), bool(need and need.light), need.engine if need else "", task.shard,
        inputs_of(cluster, task) if task.depends_on else {}, task.checkpoint, task.parent if task.shard else task.id,
        need.gpu_memory if need else 0,
    )  # fmt: skip


def inputs_of(cluster: Cluster, task: Task) -> dict[str, InputRef]:
    """Results that the task may refer to: by stage name inside its pipeline, by id and by name otherwise."""
    owner = cluster.tasks.get(task.parent) if task.shard else task
    inputs: dict[str, InputRef] = {}
    for id in task.depends_on:
        source = cluster.tasks.get(id)
        if source is None:
            result_id = cluster.met.get(owner.id if owner else task.id, {}).get(id, "")
            inputs[id] = InputRef(id, result_id)
            continue
        reference = InputRef(id, source.result_id, source.result_inline)
        same_pipeline = owner is not None and source.parent == owner.parent and source.stage
        for name in (source.stage,) if same_pipeline else (id, source.name):
            if name:
                inputs[name] = reference
    return inputs
