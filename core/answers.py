"""A decision on its way into the log: the event and, for some, what is put into or taken out of a worker's inbox with it."""

from __future__ import annotations

from msgspec import Raw, Struct

from mloc.core.events import AttemptRecalled, AttemptStopRequested, Event, TaskDispatched, WorkerLost


class InputRef(Struct, frozen=True, omit_defaults=True, gc=False):
    """Where the published result of a dependency is: inline in the log entry `result_id`, else `responses.json` in the task's folder."""

    task: str
    result_id: str
    inline: bool = True


class Dispatch(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a worker needs beside TaskDispatched to run the attempt; JSON in the inbox entry's `extra`."""

    task_type: str
    spec: Raw  # JSON of the task's spec
    light: bool = False
    engine: str = ""
    shard: tuple[int, int] | None = None  # (index, count)
    inputs: dict[str, InputRef] = {}  # stage name, or task id for a task of another file
    checkpoint: str = ""  # path of the newest checkpoint that the log shows
    secrets_task: str = ""  # the task whose secrets it may read
    device_memory: int = 0  # bytes that it may use of each of its devices; 0: all of them, with nobody beside it but who joins its engine


class Answer(Struct, frozen=True, gc=False):
    """An event to append, and its delivery: `inbox` (worker, incarnation), `extra` for a dispatch, `recall` the inbox entry to remove."""

    event: Event
    inbox: tuple[str, int] | None = None
    extra: bytes = b""
    recall: str = ""


def is_delivered(event: Event) -> bool:
    """Events that go into the inbox as well as into the log."""
    return isinstance(event, TaskDispatched | AttemptStopRequested)


def revokes(event: Event) -> bool:
    """Events with which the commit revokes the incarnation and deletes its inbox."""
    return isinstance(event, WorkerLost)


def is_recall(event: Event) -> bool:
    """Events that the commit appends only where the inbox entry is there and not marked started."""
    return isinstance(event, AttemptRecalled)
