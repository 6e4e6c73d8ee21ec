"""A submission that is repeated may come into a log that knows nothing of the first, while an attempt of it still runs."""

from msgspec.structs import replace

from mloc.core.events import HeldAttempt, Parallel, ServerRestarted, TaskDispatched, TaskSubmitted
from mloc.core.resubmission import sent_again
from tests.core.history import TRAIN, History, dispatch_of, only


def test_a_repeated_task_gets_attempt_numbers_that_no_log_before_can_have_given():
    history = History(now_ms=1_700_000_000_000)
    history.worker()
    history.submit("a", TRAIN, sent_before=True)
    first = dispatch_of(history.settle(), "a")
    assert first.attempt == 1_700_000_000_001
    history.worker("w", 2)
    assert dispatch_of(history.settle(), "a").attempt == first.attempt + 1


def test_so_do_its_shards():
    history = History(now_ms=1_700_000_000_000)
    history.worker(slots=2)
    history.submit("a", TRAIN, parallel=Parallel(shards=2), items=4, sent_before=True)
    numbers = {event.task: event.attempt for event in only(history.settle(), TaskDispatched)}
    assert numbers == {"a.s0": 1_700_000_000_001, "a.s1": 1_700_000_000_001}


def test_an_attempt_of_the_log_before_is_not_taken_for_the_new_one():
    history = History(now_ms=1_700_000_000_000)
    history.worker("new")
    history.submit("a", TRAIN, sent_before=True)
    running = dispatch_of(history.settle(), "a")
    history.start(running)
    history.worker("old", 7, attempts=(HeldAttempt("a", 1),))
    (stop,) = history.settle()
    assert (stop.worker, stop.attempt) == ("old", 1)
    assert (history.task("a").current, history.task("a").worker) == (running.attempt, "new")


def test_a_repeat_in_the_log_that_has_the_first_changes_nothing():
    history = History()
    history.worker()
    history.submit("a", TRAIN)
    before = history.task("a")
    history.submit("a", TRAIN, sent_before=True)
    assert history.task("a") is before
    assert dispatch_of(history.settle(), "a").attempt == 1


def test_after_a_restart_of_the_server_its_numbers_leave_a_gap_as_all_do():
    history = History(now_ms=1_700_000_000_000)
    history.submit("again", TRAIN, sent_before=True)
    history.submit("once", TRAIN)
    history.now_ms += 50_000
    history.add(ServerRestarted(run_id="run2"))
    history.worker(slots=2, run_id="run2")
    answers = history.settle()
    assert (dispatch_of(answers, "again").attempt, dispatch_of(answers, "once").attempt) == (1_700_000_050_001, 50_001)


def test_only_submissions_say_that_they_are_repeated():
    events = [TaskSubmitted(task="a", name="n"), ServerRestarted(run_id="r")]
    assert sent_again(events) == [replace(events[0], sent_before=True), events[1]]
