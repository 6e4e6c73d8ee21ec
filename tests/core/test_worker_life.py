"""What becomes of workers and of what they hold: lost, registered anew, drained, switched off, retired."""

from mloc.core.events import (
    AttemptLost,
    AttemptRecalled,
    AttemptStopRequested,
    AttemptSucceeded,
    HeldAttempt,
    ServerRestarted,
    TaskDispatched,
    TaskRequeued,
    WorkerDrainRequested,
    WorkerElasticChanged,
    WorkerLost,
    WorkerRetired,
)
from tests.core.history import TRAIN, dispatch_of, only


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


def test_a_worker_that_beats_seldom_is_missed_after_three_of_its_own_intervals(history):
    ttl_ms = history.limits.heartbeat_ttl_ms
    history.worker("seldom", beats_ms=ttl_ms)
    history.worker("often", beats_ms=1)
    history.seen_ms |= dict.fromkeys(("seldom", "often"), history.now_ms)
    history.now_ms += ttl_ms + 1
    assert [event.worker for event in history.decide()] == ["often"]
    history.now_ms += 2 * ttl_ms
    assert {event.worker for event in history.decide()} == {"often", "seldom"}


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
