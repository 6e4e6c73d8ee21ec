"""What the log says happened, and what the scheduler and the aggregator make of it."""

import pytest
from msgspec.structs import replace

from mloc.core.events import (
    AttemptLost,
    AttemptRecalled,
    AttemptStopped,
    AttemptStopRequested,
    AttemptSucceeded,
    CancelRequested,
    Error,
    HeldAttempt,
    Parallel,
    ResultPublished,
    RetryRequested,
    ServerRestarted,
    TaskCancelled,
    TaskDeadLettered,
    TaskDispatched,
    TaskPriorityChanged,
    TaskRequeued,
    TaskSharded,
    TaskTimedOut,
    WorkerDrainRequested,
    WorkerElasticChanged,
    WorkerLost,
    WorkerRetired,
)
from mloc.core.task import Task, rows_done, with_rows_answered
from tests.core.history import GPU, TRAIN, History, dispatch_of, only


@pytest.fixture
def history() -> History:
    return History()


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


def test_a_worker_without_sign_of_life_is_lost_once_and_gets_nothing_in_the_same_round(history):
    history.worker("w1")
    history.submit("a")
    history.settle()
    history.seen_ms["w1"] = history.now_ms
    history.now_ms += history.limits.heartbeat_ttl_ms + 1
    history.submit("b")
    assert [type(e) for e in history.decide()] == [WorkerLost]
    answers = history.settle()
    assert [type(e) for e in answers] == [WorkerLost, AttemptLost, TaskRequeued]
    history.worker("w1", 2)
    history.seen_ms["w1"] = history.now_ms
    assert {(d.task, d.attempt) for d in only(history.settle(), TaskDispatched)} == {("a", 2), ("b", 1)}


def test_a_registration_adopts_what_it_lists_and_ends_what_it_does_not(history):
    history.worker(slots=2)
    history.submit("a", TRAIN)
    history.submit("b", TRAIN)
    for dispatch in only(history.settle(), TaskDispatched):
        history.start(dispatch)
    history.worker("w", 2, slots=2, attempts=(HeldAttempt("a", 1),))
    assert (history.task("a").phase, history.task("a").current, history.task("a").incarnation) == ("running", 1, 2)
    assert history.task("b").phase == "orphaned"
    answers = history.settle()
    assert [type(e) for e in answers] == [AttemptLost, TaskRequeued, TaskDispatched]
    assert answers[-1].attempt == 2


def test_a_listed_attempt_of_a_task_that_runs_elsewhere_is_stopped_under_the_new_incarnation(history):
    history.worker("w1")
    history.submit("a", TRAIN)
    history.start(dispatch_of(history.settle(), "a"))
    history.add(WorkerLost(worker="w1", incarnation=1))
    history.worker("w2")
    history.settle()
    history.worker("w1", 2, attempts=(HeldAttempt("a", 1),))
    (stop,) = history.settle()
    assert (stop.attempt, stop.worker, stop.incarnation) == (1, "w1", 2)
    history.worker("w1", 3, attempts=(HeldAttempt("a", 1),))
    (again,) = history.settle()
    assert again.incarnation == 3


def test_a_running_task_times_out_and_its_attempt_is_stopped(history):
    history.worker()
    history.submit("a", TRAIN, timeout_sec=5.0)
    history.start(dispatch_of(history.settle(), "a"))
    history.now_ms += 4_999
    assert history.settle() == []
    history.now_ms += 1
    assert [type(e) for e in history.settle()] == [TaskTimedOut, AttemptStopRequested]
    assert history.task("a").phase == "timed_out"


def test_a_pipeline_runs_its_stages_in_order_and_is_published_after_them(history):
    history.worker()
    history.submit("p", None, children=("p.a", "p.b"))
    history.submit("p.a", parent="p", stage="a")
    history.submit("p.b", parent="p", stage="b", depends_on=("p.a",))
    first = dispatch_of(history.settle(), "p.a")
    assert history.task("p").phase == "running"
    assert history.task("p.b").phase == "waiting"
    history.succeed(first)
    second = dispatch_of(history.settle(), "p.b")
    history.succeed(second)
    published = only(history.settle(), ResultPublished)
    assert [e.task for e in published] == ["p.b", "p"]
    assert b'"task_id":"p.a"' in bytes(published[1].result)


def test_a_pipeline_is_not_complete_while_only_some_of_its_stages_were_read(history):
    history.submit("p", None, children=("p.a", "p.b"))
    history.submit("p.a", parent="p", stage="a")
    history.worker()
    history.succeed(dispatch_of(history.settle(), "p.a"))
    history.settle()
    assert history.task("p").phase == "running"


def test_dependants_are_held_behind_a_dead_letter_and_go_on_after_a_retry(history):
    history.worker()
    history.submit("p", None, children=("p.a", "p.b"))
    history.submit("p.a", parent="p", stage="a", max_attempts=1)
    history.submit("p.b", parent="p", stage="b", depends_on=("p.a",))
    history.fail(dispatch_of(history.settle(), "p.a"))
    history.settle()
    assert [history.task(id).phase for id in ("p", "p.a", "p.b")] == ["dead_lettered", "dead_lettered", "waiting"]
    history.add(RetryRequested(task="p"))
    history.succeed(dispatch_of(history.settle(), "p.a"))
    assert history.task("p").phase == "running"
    history.succeed(dispatch_of(history.settle(), "p.b"))
    history.settle()
    assert history.task("p").phase == "published"


def test_cancelling_a_pipeline_cancels_every_open_stage(history):
    history.worker()
    history.submit("p", None, children=("p.a", "p.b"))
    history.submit("p.a", TRAIN, parent="p", stage="a")
    history.submit("p.b", parent="p", stage="b", depends_on=("p.a",))
    history.start(dispatch_of(history.settle(), "p.a"))
    history.add(CancelRequested(task="p", by="ada"))
    answers = history.settle()
    assert {e.task for e in only(answers, TaskCancelled)} == {"p", "p.a", "p.b"}
    assert only(answers, AttemptStopRequested)[0].task == "p.a"


def test_a_cancelled_stage_cancels_what_depends_on_it_and_ends_its_pipeline(history):
    history.submit("p", None, children=("p.a", "p.b"))
    history.submit("p.a", parent="p", stage="a")
    history.submit("p.b", parent="p", stage="b", depends_on=("p.a",))
    history.add(CancelRequested(task="p.a"))
    history.settle()
    assert [history.task(id).phase for id in ("p.a", "p.b", "p")] == ["cancelled"] * 3


def test_a_parallel_task_is_split_and_its_failed_shard_retries_alone(history):
    history.worker("w1")
    history.worker("w2")
    history.submit("a", TRAIN, parallel=Parallel(shards=2), items=5, backoff_sec=0.0)
    answers = history.settle()
    assert only(answers, TaskSharded)[0].count == 2
    shards = {d.task: d for d in only(answers, TaskDispatched)}
    assert {d.worker for d in shards.values()} == {"w1", "w2"}
    assert [history.task(f"a.s{i}").items for i in (0, 1)] == [2, 3]
    history.fail(shards["a.s0"])
    history.succeed(shards["a.s1"])
    again = dispatch_of(history.settle(), "a.s0")
    history.succeed(again)
    history.settle()
    assert history.task("a").phase == "succeeded"  # waits for the merge, an effect


def test_after_a_server_restart_numbers_leave_a_gap_and_workers_register_first(history):
    history.worker()
    history.submit("a", TRAIN)
    history.now_ms += 50_000
    history.add(ServerRestarted(run_id="run2"))
    assert history.settle() == []
    history.worker("w", 2, run_id="run2")
    assert dispatch_of(history.settle(), "a").attempt == 50_001


def test_drain_takes_back_what_has_not_started(history):
    history.worker("w1")
    history.submit("a", TRAIN)
    history.settle()
    history.add(WorkerDrainRequested(worker="w1"))
    history.worker("w2")
    answers = history.settle()
    assert only(answers, AttemptRecalled)[0].worker == "w1"
    assert dispatch_of(answers, "a").worker == "w2"
    assert history.task("a").failures == 0


def test_a_worker_that_is_switched_off_keeps_what_runs_and_gets_nothing_new_until_it_is_on_again(history):
    history.worker("w1")
    history.submit("a", TRAIN)
    history.start(dispatch_of(history.settle(), "a"))
    history.add(WorkerElasticChanged(worker="w1", enabled=False))
    history.submit("b", TRAIN)
    assert history.settle() == []
    assert history.task("a").phase == "running"
    history.worker("w1", 2, attempts=(HeldAttempt("a", 1),))
    assert history.settle() == []
    assert history.task("a").phase == "running"
    history.add(WorkerElasticChanged(worker="w1", enabled=True), AttemptSucceeded(task="a", attempt=1, worker="w1", incarnation=2))
    assert dispatch_of(history.settle(), "b").worker == "w1"


def test_what_has_not_started_on_a_worker_that_is_switched_off_goes_elsewhere(history):
    history.worker("w1")
    history.submit("a", TRAIN)
    history.settle()
    history.add(WorkerElasticChanged(worker="w1", enabled=False))
    history.worker("w2")
    assert dispatch_of(history.settle(), "a").worker == "w2"


def test_a_retired_worker_gives_its_tasks_back_without_counting_a_failure(history):
    history.worker("w1")
    history.submit("a", TRAIN)
    history.start(dispatch_of(history.settle(), "a"))
    history.add(WorkerRetired(worker="w1", incarnation=1))
    history.settle()
    task = history.task("a")
    assert (task.phase, task.failures) == ("ready", 0)


def test_priority_goes_before_age_also_when_it_changes_later(history):
    history.submit("old", TRAIN)
    history.submit("new", TRAIN, priority=90)
    history.submit("raised", TRAIN)
    history.add(TaskPriorityChanged(task="raised", priority=95))
    history.worker(slots=3)
    assert [d.task for d in only(history.settle(), TaskDispatched)] == ["raised", "new", "old"]


def test_a_task_of_another_file_may_depend_on_a_result_that_left_memory(history):
    history.submit("b", depends_on=("gone",), met={"gone": "5-1"})
    history.worker()
    assert dispatch_of(history.settle(), "b")


def test_the_same_submission_twice_in_the_log_is_one_task(history):
    history.submit("a", priority=10)
    history.submit("a", priority=20)
    assert history.task("a").priority == 10


def test_an_attempt_that_failed_is_not_adopted_when_its_worker_did_not_hear_that_the_log_has_it(history):
    history.worker()
    history.submit("a", TRAIN)
    first = dispatch_of(history.settle(), "a")
    history.start(first)
    history.fail(first)
    history.worker("w", 2, attempts=(HeldAttempt("a", 1),))
    assert history.task("a").phase == "failed"
    answers = history.settle()
    assert [(e.task, e.attempt) for e in only(answers, AttemptStopRequested)] == [("a", 1)]
    assert history.task("a").phase == "backoff"


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
