"""History again under other conditions, by the real decisions on a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mloc.core.decisions.dispatch_policy import POLICIES, pinned
from mloc.core.events import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    CancelRequested,
    Error,
    Need,
    Parallel,
    PolicyChanged,
    TaskDispatched,
    raw,
)
from mloc.core.task import Task
from mloc.replay.what_if import Variant, WhatIf, what_if
from tests.histories import History, HistoryLog

SECOND = 1000


def a_history(tasks: dict[str, list[float | str]], workers: int = 1, **fields: Any) -> History:
    """Tasks that are submitted at once and run one after the other, each attempt so many seconds; "x7" is one that fails after seven."""
    made = History(step_ms=0)
    for number in range(workers):
        made.worker(f"w{number + 1}", slots=1)
    for task in tasks:
        made.submit(task, need=Need("echo"), backoff_sec=0.0, **fields)
    done: dict[str, int] = {task: 0 for task in tasks}
    while made.decide() or any(True for _ in made.cluster.holdings.all()):
        for attempt in list(made.cluster.holdings.all()):
            named: dict[str, Any] = {
                "task": attempt.task, "attempt": attempt.number, "worker": attempt.worker, "incarnation": attempt.incarnation
            }  # fmt: skip
            course = tasks[attempt.task][done[attempt.task]]
            done[attempt.task] += 1
            made.add(AttemptStarted(**named))
            ms = (float(course[1:]) if isinstance(course, str) else course) * SECOND
            made.now_ms += int(ms)
            if isinstance(course, str):
                made.add(AttemptFailed(error=Error("Oops", "it failed", retryable=True), duration_ms=ms, **named))
            else:
                made.add(AttemptSucceeded(result=raw(b"{}"), duration_ms=ms, **named))
    return made


async def tried(history: History, **changes: Any) -> WhatIf:
    return await what_if(HistoryLog(history), Variant(**changes))  # type: ignore[arg-type]


async def test_the_same_conditions_give_what_was() -> None:
    found = await tried(a_history({"a": [10], "b": [20], "c": ["x5", 30]}))
    assert (found.was.tasks, found.was.published, found.was.attempts, found.was.busy_sec) == (3, 3, 4, 65.0)
    assert (found.was.makespan_sec, found.was.turnaround_mean_sec) == (65.0, (10 + 30 + 65) / 3)
    assert found.same == found.then == found.was
    assert found.guessed == 0


async def test_more_workers_end_sooner_and_are_as_busy() -> None:
    found = await tried(a_history({"a": [10], "b": [20], "c": [30]}), workers=3)
    assert (found.same.makespan_sec, found.then.makespan_sec) == (60.0, 30.0)
    assert (found.then.wait_mean_sec, found.then.busy_sec, found.then.workers) == (0.0, 60.0, 3)


async def test_another_policy_chooses_other_workers() -> None:
    # given two tasks whose ids both point to w1, and two workers
    pointing = [id for id in "abcdefgh" if pinned("static", Task(id), ("w1", "w2")) == "w1"][:2]
    history = a_history({id: [10] for id in pointing}, workers=2)
    # when each goes where its id points to, then the second waits for the first, though w2 is free
    found = await tried(history, policy="static")
    assert (found.same.makespan_sec, found.then.makespan_sec) == (10.0, 20.0)


async def test_the_policy_of_history_is_the_one_under_which_its_first_tasks_ran() -> None:
    # given tasks that were submitted before a scheduler was there to say by which policy it goes
    history = a_history({})
    for id in (id for id in "abcdefgh" if pinned("static", Task(id), ("w1", "w2")) == "w1"):
        history.submit(id, need=Need("echo"))
    history.worker("w2", slots=1)
    history.add(PolicyChanged(dispatch="static"))
    # when they run on the virtual clock, then each goes where its id points to: w2 has nothing to do
    found = await tried(history)
    assert (found.same.published, found.same.workers) == (found.same.tasks, 1)


async def test_attempts_that_took_a_fraction_of_a_millisecond_come_to_their_end() -> None:
    # given tasks that took 0.018 ms and 1.4 ms, as an echo does: no whole number of the clock's milliseconds
    history = a_history({"a": [0.000018], "b": [0.0014]})
    # when history runs again with as many and with more workers, then it ends, and all is published
    found = await tried(history, workers=2)
    assert (found.same.published, found.then.published) == (2, 2)


async def test_fewer_attempts_leave_more_for_a_person() -> None:
    history = a_history({"a": ["x1", "x1", 3], "b": [1]})
    assert (await tried(history)).then.published == 2
    found = (await tried(history, max_attempts=2)).then
    assert (found.published, found.dead_lettered, found.attempts, found.busy_sec) == (1, 1, 3, 3.0)


async def test_attempts_that_history_does_not_know_are_said_to_be_guesses() -> None:
    found = await tried(a_history({"a": ["x1", "x1", "x1"], "b": [1]}), max_attempts=5)
    assert (found.was.dead_lettered, found.then.attempts, found.guessed) == (1, 6, 2)


async def test_a_cancelled_task_is_cancelled_again_and_its_worker_goes_on() -> None:
    history = a_history({"a": [10]})
    history.submit("long", need=Need("echo"))
    history.decide()
    history.now_ms += 5 * SECOND
    history.add(CancelRequested(task="long"))
    history.settle()
    found = await tried(history)
    assert found.same.ended_otherwise == found.was.ended_otherwise == 1


async def test_a_split_task_is_the_same_work_in_other_parts() -> None:
    made = History(step_ms=0)
    made.worker("w1", slots=2)
    made.submit("whole", need=Need("echo"), parallel=Parallel(), items=100)
    for _ in range(20):
        made.decide()
        for attempt in list(made.cluster.holdings.all()):
            named: dict[str, Any] = {
                "task": attempt.task, "attempt": attempt.number, "worker": attempt.worker, "incarnation": attempt.incarnation
            }  # fmt: skip
            made.add(AttemptStarted(**named))
            made.now_ms += 20 * SECOND
            made.add(AttemptSucceeded(result=raw(b"{}"), duration_ms=20.0 * SECOND, **named))
    assert made.cluster.tasks["whole"].phase == "published"
    found = await tried(made, workers=4)
    assert found.then.busy_sec == pytest.approx(found.same.busy_sec, rel=0.02)
    assert found.then.makespan_sec <= found.same.makespan_sec


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=3),
        st.tuples(st.lists(st.integers(0, 9), max_size=2), st.integers(0, 99)).map(lambda one: [*(f"x{sec}" for sec in one[0]), one[1]]),
        min_size=1, max_size=12,
    ),
    st.integers(1, 3), st.sampled_from(POLICIES), st.integers(1, 5),
)  # fmt: skip
async def test_under_any_policy_every_task_ends_and_the_work_is_the_same(tasks: dict[str, Any], workers: int, policy: str, fleet: int) -> None:
    history = a_history(tasks, workers)
    dispatched = sum(entry.type == TaskDispatched.__name__ for entry in history.entries)
    found = await tried(history, policy=policy, workers=fleet)
    assert found.was.published == found.then.published == len(tasks)
    assert found.was.attempts == found.then.attempts == dispatched
    assert found.then.busy_sec == pytest.approx(found.was.busy_sec, abs=0.01)
    assert found.then.makespan_sec >= found.then.busy_sec / fleet - 0.01
    assert found.guessed == 0
