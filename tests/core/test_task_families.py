"""Tasks that depend on each other: stages of a pipeline, shards, dependants."""

from mloc.core.events import (
    AttemptStopRequested,
    CancelRequested,
    Parallel,
    ResultPublished,
    RetryRequested,
    TaskCancelled,
    TaskDispatched,
    TaskSharded,
)
from tests.core.history import TRAIN, dispatch_of, only


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


def test_a_task_of_another_file_may_depend_on_a_result_that_left_memory(history):
    history.submit("b", depends_on=("gone",), met={"gone": "5-1"})
    history.worker()
    assert dispatch_of(history.settle(), "b")
