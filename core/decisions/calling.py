"""The aggregator's `decide` for callbacks: which receivers are called now, and what the log is told of calls that ended. Level-triggered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from msgspec import Struct

from mloc.core.callbacks import Callback
from mloc.core.cluster import Cluster
from mloc.core.events import CallbackFailed, CallbackMade, Event


class Call(Struct, frozen=True, gc=False):
    """An effect: one try to tell one receiver of one end. Doing it twice is known by its key."""

    task: str
    what: str
    ended_ms: int
    number: int  # of the try, from 1

    @property
    def key(self) -> str:
        """The same for each try: what a receiver knows a repeat by."""
        return f"{self.task}.{self.what}.{self.ended_ms}"


class Answered(Struct, frozen=True, gc=False):
    """How a call ended: well where `error` is empty. `again_ms`: until the next try, 0 to give up."""

    status: int = 0
    error: str = ""
    again_ms: int = 0


def decide(
    cluster: Cluster, now_ms: int, answered: Mapping[Call, Answered], max_open: int, max_answers: int = 64
) -> tuple[list[Event], list[Call]]:
    """Events for calls that ended, and calls to make (asked for again until their end is in `answered`)."""
    calls = [_call(task, callback) for task, callback in cluster.calls.due(now_ms)]
    ended = [_event(call, answered[call]) for call in calls if call in answered][:max_answers]
    ended += islice(_too_many(cluster, max_open), max_answers - len(ended))
    return ended, [call for call in calls if call not in answered]


def _too_many(cluster: Cluster, max_open: int) -> Iterator[Event]:
    """Memory is bounded: the oldest go."""
    for task, callback in islice(cluster.calls.oldest(), max(0, len(cluster.calls) - max_open)):
        why = f"{callback.error}; " if callback.error else ""
        error = f"{why}given up, because more than {max_open:,} callbacks wait"
        yield CallbackFailed(task=task, what=callback.receiver.what, ended_ms=callback.ended_ms, status=callback.status, error=error)


def _call(task: str, callback: Callback) -> Call:
    return Call(task, callback.receiver.what, callback.ended_ms, callback.tries + 1)


def _event(call: Call, answered: Answered) -> Event:
    if not answered.error:
        return CallbackMade(task=call.task, what=call.what, ended_ms=call.ended_ms, status=answered.status)
    return CallbackFailed(
        task=call.task, what=call.what, ended_ms=call.ended_ms, status=answered.status, error=answered.error, again_ms=answered.again_ms
    )  # fmt: skip
