"""Who is to be told of which end, and when again: over all orders of ends, failures and successes."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from mloc.core.callbacks import LONGEST_PAUSE_MS, pause_ms
from mloc.core.calls import AT_ONCE, AT_ONCE_FAILING
from mloc.core.cluster import from_bytes
from mloc.core.decisions import calling
from mloc.core.decisions.calling import Answered
from mloc.core.event_line import describe
from mloc.core.events import CallbackFailed, CallbackMade, Receiver, TaskCancelled
from tests.histories import History

HOSTS = ("http://a/x", "http://b/y", "https://a/z")


def cancelled(history: History, count: int, url: str = HOSTS[0]) -> None:
    """Tasks that have ended and have somebody to tell."""
    first = len(history.cluster.tasks)
    for number in range(first, first + count):
        history.submit(f"t{number}", receivers=(Receiver("notice", url),))
        history.add(TaskCancelled(task=f"t{number}", reason="x"))


def decided(history: History, answered: dict[Any, Answered] | None = None, max_open: int = 1000) -> tuple[list[Any], list[Any]]:
    return calling.decide(history.cluster, history.now_ms, answered or {}, max_open)


def test_of_one_place_only_some_are_called_at_a_time_and_fewer_once_it_failed() -> None:
    history = History()
    cancelled(history, 20)
    cancelled(history, 3, HOSTS[1])
    _, calls = decided(history)
    assert len(calls) == AT_ONCE + 3
    for call in calls:
        history.add(CallbackFailed(task=call.task, what=call.what, ended_ms=call.ended_ms, error="down", again_ms=1))
    cancelled(history, 1, HOSTS[2])
    history.now_ms += 10_000
    _, calls = decided(history)
    places = [history.cluster.tasks[call.task].callbacks[0].receiver.url for call in calls]
    assert (places.count(HOSTS[0]), places.count(HOSTS[1]), places.count(HOSTS[2])) == (AT_ONCE, AT_ONCE_FAILING, 1)  # those behind come first


def test_what_waits_is_bounded_and_the_oldest_go() -> None:
    history = History()
    cancelled(history, 5)
    events, _ = decided(history, max_open=3)
    assert [event.task for event in events] == ["t0", "t1"]
    for event in events:
        assert event.again_ms == 0
        history.add(event)
    assert (len(history.cluster.calls), decided(history, max_open=3)[0]) == (3, [])
    assert history.cluster.tasks["t0"].callbacks[0].state == "given_up"


def test_a_callback_of_an_end_that_is_past_changes_nothing() -> None:
    history = History()
    cancelled(history, 1)
    before = history.cluster.tasks["t0"]
    history.add(CallbackMade(task="t0", what="notice", ended_ms=before.callbacks[0].ended_ms - 1, status=200))
    history.add(CallbackMade(task="t0", what="result", ended_ms=before.callbacks[0].ended_ms, status=200))
    history.add(CallbackMade(task="unknown", what="result", ended_ms=1))
    assert history.cluster.tasks["t0"] == before


def test_an_ended_task_stays_in_memory_until_everyone_was_told(monkeypatch: Any) -> None:
    monkeypatch.setattr("mloc.core.cluster.KEEP_ENDED", 2)
    history = History()
    cancelled(history, 1)
    for number in range(10):
        history.submit(f"u{number}")
        history.add(TaskCancelled(task=f"u{number}"))
    assert "t0" in history.cluster.tasks
    history.add(CallbackMade(task="t0", what="notice", ended_ms=history.cluster.tasks["t0"].callbacks[0].ended_ms))
    for number in range(10, 20):
        history.submit(f"u{number}")
        history.add(TaskCancelled(task=f"u{number}"))
    assert "t0" not in history.cluster.tasks


def test_each_event_has_its_line() -> None:
    assert describe(CallbackMade(task="t", what="result", ended_ms=1, status=201)) == "the result was sent, answered with 201"
    failed = CallbackFailed(task="t", what="notice", ended_ms=1, error="h answered 500", again_ms=1500)
    assert describe(failed) == "the webhook could not be called: h answered 500; again in 1.5 s"
    assert describe(msgspec.structs.replace(failed, again_ms=0)).endswith("; given up")


@given(st.integers(1, 100), st.floats(0, 1), st.integers(0, 10**9))
def test_pauses_double_up_to_an_hour_and_are_never_shorter_than_asked(tries: int, chance: float, wish_ms: int) -> None:
    pause = pause_ms(tries, chance, wish_ms)
    assert pause >= min(wish_ms, 6 * 3_600_000)
    assert pause_ms(tries, chance) <= LONGEST_PAUSE_MS
    assert pause_ms(tries, chance) >= min(LONGEST_PAUSE_MS, 1000 * 2 ** (tries - 1)) // 2


STEPS = st.lists(st.tuples(st.sampled_from(["end", "made", "failed", "given_up", "wait"]), st.integers(0, 7)), max_size=60)


@settings(max_examples=60)
@given(STEPS)
def test_the_index_is_what_the_tasks_say_also_from_a_snapshot(steps: list[tuple[str, int]]) -> None:
    history = History()
    for what, number in steps:
        due = sorted(call.task for call in decided(history)[1])
        if what == "end":
            cancelled(history, 1, HOSTS[number % len(HOSTS)])
        elif what == "wait":
            history.now_ms += 1000 * number
        elif due:
            task = history.cluster.tasks[due[number % len(due)]]
            fields = {"task": task.id, "what": "notice", "ended_ms": task.callbacks[0].ended_ms}
            history.add(CallbackMade(**fields) if what == "made" else CallbackFailed(**fields, error="x", again_ms=0 if what == "given_up" else 3000))
    again = from_bytes(history.cluster.to_bytes())
    expected = {task.id for task in history.cluster.tasks.values() if any(one.state == "due" for one in task.callbacks)}
    for cluster in (history.cluster, history.cluster.copy(), again):
        assert {task for task, _ in cluster.calls.oldest()} == expected
        soonest = [one.due_ms for task in cluster.tasks.values() for one in task.callbacks if one.state == "due"]
        assert cluster.calls.next_due_ms() == min(soonest, default=None)
        found = [task for task, _ in cluster.calls.due(history.now_ms)]
        assert set(found) <= {id for id in expected if cluster.tasks[id].callbacks[0].due_ms <= history.now_ms}
        assert len(found) == len(set(found))
    assert again.digest() == history.cluster.digest()
