"""What the demo concludes from the log's entries alone."""

from mloc.core.events import (
    AttemptLost,
    AttemptStarted,
    AttemptSucceeded,
    Event,
    LeaderElected,
    ResultPublished,
    TaskSharded,
    TaskSubmitted,
    WorkerRegistered,
)
from mloc.services.demo.evidence import Comeback, Evidence, gathered, objections

SUBMITTED = [
    TaskSubmitted(task="job", children=("job.work",)),
    TaskSubmitted(task="job.work", task_type="echo"),
    TaskSharded(task="job.work", count=2),
]


def started(task: str, attempt: int = 1) -> Event:
    return AttemptStarted(task=task, attempt=attempt, worker="w1", incarnation=1)


def succeeded(task: str, attempt: int = 1) -> list[Event]:
    return [AttemptSucceeded(task=task, attempt=attempt, worker="w1", incarnation=1), ResultPublished(task=task, attempt=attempt)]


def found(*events: Event) -> Evidence:
    return gathered([(f"{1000 + at}-0", event) for at, event in enumerate([*SUBMITTED, *events])], "job")


def ended_right() -> list[Event]:
    parents = [ResultPublished(task="job.work"), ResultPublished(task="job")]
    return [started("job.work.s0"), *succeeded("job.work.s0"), started("job.work.s1"), *succeeded("job.work.s1"), *parents]


def test_a_job_whose_tasks_are_each_published_once_has_no_objections() -> None:
    assert objections(found(*ended_right())) == []


def test_an_attempt_that_was_lost_and_run_again_is_named_and_no_objection() -> None:
    lost = AttemptLost(task="job.work.s0", attempt=1, worker="w1", incarnation=1)
    evidence = found(started("job.work.s0"), lost, *ended_right())
    assert evidence.tried_again == ["job.work.s0"]
    assert evidence.lost == {"job.work.s0": 1}
    assert objections(evidence) == []


def test_a_result_that_is_missing_or_published_twice_is_an_objection() -> None:
    assert objections(found(*ended_right()[:-1])) == ["job was published 0 times"]
    assert objections(found(*ended_right(), ResultPublished(task="job.work.s1"))) == ["job.work.s1 was published 2 times"]
    assert objections(found(*ended_right(), ResultPublished(task="job.other"))) == ["job.other was published and never submitted"]


def test_a_part_that_was_published_without_a_success_is_an_objection() -> None:
    events = [event for event in ended_right() if not (isinstance(event, AttemptSucceeded) and event.task == "job.work.s1")]
    assert objections(found(*events)) == ["job.work.s1 never succeeded"]


def test_another_job_whose_name_begins_alike_does_not_count() -> None:
    assert objections(found(*ended_right(), ResultPublished(task="job-2.work"), started("job-2.work"))) == []


def test_each_coming_back_is_kept_with_its_number_and_time() -> None:
    first, again = (LeaderElected(service="scheduler", epoch=epoch) for epoch in (1, 2))
    evidence = found(first, WorkerRegistered(worker="w1", incarnation=3), again)
    assert evidence.comebacks == {"scheduler": [Comeback(1, 1003), Comeback(2, 1005)], "w1": [Comeback(3, 1004)]}
