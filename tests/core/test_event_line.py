"""Each event as one line for a person."""

from typing import get_args

import msgspec
import pytest

from mloc.core import event_line
from mloc.core.codec import UnknownEvent
from mloc.core.events import AnyEvent, AttemptFailed, Error, Event, TaskDispatched, TaskRequeued

FILLED = {str: "x", int: 3, float: 1.5, bool: True}


@pytest.mark.parametrize("kind", get_args(AnyEvent), ids=lambda kind: kind.__name__)
def test_every_event_has_a_line(kind: type[Event]) -> None:
    fields = {
        field.encode_name: Error("Boom", "first\nsecond") if field.type is Error else FILLED[field.type]
        for field in msgspec.structs.fields(kind)
        if field.type in FILLED or field.type is Error
    }
    line = event_line.describe(kind(**fields))
    assert "\n" not in line
    assert line or not fields


def test_lines_say_what_a_person_asks() -> None:
    # given a dispatch, a failure and what follows
    sent = TaskDispatched(task="a", attempt=2, worker="w1", incarnation=1, devices=(0, 1))
    failed = AttemptFailed(task="a", attempt=2, worker="w1", incarnation=1, error=Error("ValueError", "no such column\nTraceback", retryable=False))
    back = TaskRequeued(task="a", attempt=2, reason="attempt 2 failed", delay_ms=1500)
    # then
    assert event_line.describe(sent) == "attempt 2 to w1, device 0, 1"
    assert event_line.describe(failed) == "attempt 2 on w1: ValueError: no such column (trying again cannot help)"
    assert event_line.describe(back) == "attempt 2 failed; again in 1.5 s"
    assert (event_line.task_of(sent), event_line.worker_of(sent)) == ("a", "w1")
    assert event_line.task_of(UnknownEvent("FromTheFuture")) == ""
    assert "newer" in event_line.describe(UnknownEvent("FromTheFuture"))
