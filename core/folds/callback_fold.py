"""The fold of what became of calls to receivers. One of an end that is not the task's newest any more changes nothing."""

from __future__ import annotations

from msgspec.structs import replace

from mloc.core import callbacks
from mloc.core.cluster import Cluster
from mloc.core.events import CallbackFailed, CallbackMade


def called(cluster: Cluster, event: CallbackMade | CallbackFailed, now: int) -> None:
    task = cluster.tasks.get(event.task)
    if task is None:
        return
    for at, one in enumerate(task.callbacks):
        if one.receiver.what == event.what and one.state == "due" and one.ended_ms == event.ended_ms:
            if isinstance(event, CallbackMade):
                changed = callbacks.made(one, event.status, now)
            else:
                changed = callbacks.failed(one, event.status, event.error, event.again_ms, now)
            cluster.put(task, replace(task, callbacks=(*task.callbacks[:at], changed, *task.callbacks[at + 1 :])))
            return
