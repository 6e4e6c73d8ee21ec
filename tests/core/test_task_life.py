"""What the log says happened, and what the scheduler and the aggregator make of it."""

import pytest
from msgspec.structs import replace

from mloc.core.events import (
    AttemptLost,
    AttemptRecalled,
    AttemptStopped,
    AttemptStopRequested,
    CancelRequested,
    Error,
    ResultPublished,
    RetryRequested,
    TaskCancelled,
    TaskDeadLettered,
    TaskDispatched,
    TaskPriorityChanged,
    TaskRequeued,
    TaskTimedOut,
    WorkerLost,
)
from mloc.core.task import Task, rows_done, with_rows_answered
from tests.core.history import GPU, TRAIN, dispatch_of, only


def test_a_task_goes_from_submission_to_its_published_result(history):
    history.worker()
    history.submit("a")
    dispatch = dispatch_of(history.settle(), "a")
    history.start(dispatch)
    assert history.task("a").phase == "running"
    entry = history.succeed(dispatch)
    assert only(history.settle(), ResultPublished)[0].task == "a"
    task = history.task("a")
    assert (task.phase, task.result_id, task.current, task.last) == ("published", entry, 0, 1)
    assert not history.cluster.holdings.of("w")
    assert "a" not in history.cluster.specs


def test_the_first_success_is_the_result_and_a_second_one_changes_nothing(history):
    history.worker()
    history.submit("a")
    dispatch = dispatch_of(history.settle(), "a")
    first = history.succeed(dispatch, b'{"n":1}')
    history.succeed(dispatch, b'{"n":2}')
    assert history.task("a").result_id == first
    assert len(only(history.settle(), ResultPublished)) == 1


def test_a_late_success_of_a_lost_attempt_counts_and_the_second_attempt_is_stopped(history):
    history.worker("w1")
    history.submit("a", TRAIN)
    first = dispatch_of(history.settle(), "a")
    history.start(first)
    history.add(WorkerLost(worker="w1", incarnation=1))
    history.worker("w2")
    answers = history.settle()
    second = dispatch_of(answers, "a")
    assert [type(e) for e in answers[:2]] == [AttemptLost, TaskRequeued]
    assert (second.worker, second.attempt) == ("w2", 2)
    history.start(second)
    late = history.succeed(first)
    assert history.task("a").result_id == late
    stop = only(history.settle(), AttemptStopRequested)
    assert [(s.task, s.attempt, s.worker) for s in stop] == [("a", 2, "w2")]
    history.add(AttemptStopped(task="a", attempt=2, worker="w2", incarnation=1))
    assert not history.cluster.holdings.of("w2")
    assert history.settle() == []


def test_a_void_dispatch_uses_up_its_number_and_holds_its_device_until_it_is_recalled(history):
    history.worker(devices=1)
    history.submit("a", GPU)
    (dispatch,) = history.decide()
    history.add(TaskCancelled(task="a"), dispatch)
    task = history.task("a")
    assert (task.phase, task.last) == ("cancelled", 1)
    assert history.cluster.holdings.on_device("w", 0) == [("a", 1)]
    history.submit("b", GPU)
    answers = history.decide()
    assert [type(e) for e in answers] == [AttemptRecalled]
    history.add(*answers)
    assert dispatch_of(history.settle(), "b").devices == (0,)


def test_a_device_stays_taken_after_a_cancel_until_the_attempt_itself_ends(history):
    history.worker(devices=1)
    history.submit("a", GPU)
    first = dispatch_of(history.settle(), "a")
    history.start(first)
    history.add(CancelRequested(task="a", by="ada"))
    history.submit("b", GPU)
    answers = history.settle()
    assert {type(e) for e in answers} == {TaskCancelled, AttemptStopRequested}
    history.add(AttemptStopped(task="a", attempt=1, worker="w", incarnation=1))
    assert dispatch_of(history.settle(), "b").attempt == 1


def test_failures_back_off_linearly_and_end_with_a_person(history):
    history.worker()
    history.submit("a", max_attempts=2, backoff_sec=10.0)
    first = dispatch_of(history.settle(), "a")
    history.start(first)
    history.fail(first)
    (requeue,) = history.settle()
    assert (type(requeue), requeue.delay_ms) == (TaskRequeued, 10_000)
    assert history.task("a").phase == "backoff"
    history.now_ms += 9_999
    assert history.settle() == []
    history.now_ms += 1
    second = dispatch_of(history.settle(), "a")
    history.fail(second)
    (letter,) = history.settle()
    assert isinstance(letter, TaskDeadLettered)
    assert history.task("a").phase == "dead_lettered"
    history.add(RetryRequested(task="a", by="ada"))
    answers = history.settle()
    assert "ada" in only(answers, TaskRequeued)[0].reason
    third = dispatch_of(answers, "a")
    assert third.attempt == 3
    assert history.task("a").failures == 0


def test_an_error_that_no_retry_mends_goes_to_a_person_at_once(history):
    history.worker()
    history.submit("a")
    history.fail(dispatch_of(history.settle(), "a"), Error("BadSpec", "no such model", retryable=False))
    assert isinstance(history.settle()[0], TaskDeadLettered)


def test_a_running_task_times_out_and_its_attempt_is_stopped(history):
    history.worker()
    history.submit("a", TRAIN, timeout_sec=5.0)
    history.start(dispatch_of(history.settle(), "a"))
    history.now_ms += 4_999
    assert history.settle() == []
    history.now_ms += 1
    assert [type(e) for e in history.settle()] == [TaskTimedOut, AttemptStopRequested]
    assert history.task("a").phase == "timed_out"


def test_priority_goes_before_age_also_when_it_changes_later(history):
    history.submit("old", TRAIN)
    history.submit("new", TRAIN, priority=90)
    history.submit("raised", TRAIN)
    history.add(TaskPriorityChanged(task="raised", priority=95))
    history.worker(slots=3)
    assert [d.task for d in only(history.settle(), TaskDispatched)] == ["raised", "new", "old"]


def test_the_same_submission_twice_in_the_log_is_one_task(history):
    history.submit("a", priority=10)
    history.submit("a", priority=20)
    assert history.task("a").priority == 10


@pytest.mark.parametrize(("at_intake", "answered", "of"), [(0, 10, 10), (12, 10, 12), (0, None, 0), (0, 0, 0)])
def test_what_a_file_held_is_known_when_its_result_is_there(at_intake, answered, of):
    task = with_rows_answered(Task("t", phase="running", rows=7, items=at_intake), answered)
    assert (rows_done(replace(task, phase="published")), task.items) == (of or 7, of)
    assert with_rows_answered(Task("t", phase="running"), answered).items == 0  # a task that told of no rows has none to show


def test_a_success_has_all_its_rows_and_rows_done_anew_are_not_counted_twice():
    assert rows_done(Task("t", phase="running", rows=3, items=10)) == 3
    assert rows_done(Task("t", phase="running", rows=12, items=10)) == 10  # a retry could not see what was there
    assert rows_done(Task("t", phase="published", rows=7, items=10)) == 10
    assert rows_done(Task("t", phase="dead_lettered", rows=7, items=10)) == 7
    assert rows_done(Task("t", phase="running", rows=7)) == 7  # nobody knows of how many
