"""Whatever the log holds: the fold is total, deciding comes to rest, no answer comes twice, and a snapshot is the state."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from mloc.core import codec
from mloc.core.cluster import Cluster, from_bytes
from mloc.core.events import (
    AttemptFailed,
    AttemptLost,
    AttemptRecalled,
    AttemptStarted,
    AttemptStopped,
    AttemptSucceeded,
    CancelRequested,
    Error,
    Event,
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
    TaskTimedOut,
    WorkerDrainRequested,
    WorkerElasticChanged,
    WorkerLost,
    WorkerRetired,
    raw,
)
from mloc.core.fold import evolve
from mloc.core.task import FINAL
from tests.core.history import ECHO, GPU, TRAIN, History

Step = tuple[int, int, int, int]
steps = st.lists(st.tuples(st.integers(0, 22), st.integers(0, 2), st.integers(0, 3), st.integers(1, 3)), min_size=20, max_size=80)


def event_of(history: History, step: Step) -> None:
    """Any event at all, fitting or not: what a log with races, losses and repeats may hold."""
    kind, which, place, number = step
    task, worker = f"t{which}", f"w{place}"
    incarnation = history.cluster.workers[worker].incarnation if worker in history.cluster.workers else 1
    attempt = {"task": task, "attempt": number, "worker": worker, "incarnation": incarnation}
    match kind:
        case 0:
            depends = (f"t{which - 1}",) if which % 2 else ()
            history.submit(task, (ECHO, TRAIN, GPU)[which % 3], depends_on=depends, max_attempts=2, timeout_sec=5.0, backoff_sec=1.0)
        case 1:
            history.submit(f"p{which}", None, children=(f"p{which}.a", f"p{which}.b"))
            history.submit(f"p{which}.a", parent=f"p{which}", stage="a")
            history.submit(f"p{which}.b", parent=f"p{which}", stage="b", depends_on=(f"p{which}.a",))
        case 2:
            history.submit(task, TRAIN, parallel=Parallel(shards=2), items=4)
        case 3:
            history.worker(worker, incarnation + 1, devices=1, slots=2)
        case 4:
            history.worker(worker, incarnation + 1, devices=1, attempts=(HeldAttempt(task, number, devices=(0,)),))
        case 5:
            history.add(AttemptStarted(**attempt))
        case 6:
            history.add(AttemptSucceeded(**attempt, result=raw(b"{}")))
        case 7:
            history.add(AttemptFailed(**attempt, error=Error("E", "broke", retryable=bool(place))))
        case 8:
            history.add(AttemptStopped(**attempt))
        case 9:
            history.add(CancelRequested(task=task if place else f"p{which}"))
        case 10:
            history.add(WorkerLost(worker=worker, incarnation=incarnation))
        case 11:
            history.add(WorkerRetired(worker=worker, incarnation=incarnation))
        case 12:
            history.add(RetryRequested(task=task if place else f"p{which}"))
        case 13:
            history.add(TaskDispatched(**attempt))
        case 14:
            history.add(TaskCancelled(task=task))
        case 15:
            history.add(TaskPriorityChanged(task=task, priority=10 * which))
        case 16:
            history.add(WorkerDrainRequested(worker=worker, undo=bool(which % 2)))
            history.add(WorkerElasticChanged(worker=worker, enabled=number % 3 != 0))
        case 17:
            history.now_ms += 1000 * number
        case 18:
            history.add(ServerRestarted(run_id=f"run{number}"))
        case 19:
            history.add(AttemptRecalled(**attempt), AttemptLost(**attempt), TaskRequeued(task=task, attempt=number, reason="x"))
        case 20:
            history.add(TaskTimedOut(task=task, attempt=number), TaskDeadLettered(task=task, attempt=number, error=Error("E", "x")))
        case 22:
            history.add(ResultPublished(task=task))
        case 21:
            for event in history.decide()[:number]:
                history.add(event)


def identity(event: Event) -> tuple:
    fields = ("task", "attempt", "worker", "incarnation")
    return (codec.type_of(event), *(getattr(event, name, None) for name in fields))


@settings(max_examples=150, deadline=None)
@given(steps)
def test_deciding_comes_to_rest_and_no_answer_comes_twice(script):
    history = History()
    for step in script:
        event_of(history, step)
    answers = history.settle()
    repeated = [key for key, times in Counter(identity(e) for e in answers).items() if times > 1]
    assert repeated == []


@settings(max_examples=150, deadline=None)
@given(steps)
def test_a_task_ends_once_whatever_else_the_log_holds(script):
    history = History()
    for step in script:
        before = {id: task.phase for id, task in history.cluster.tasks.items()}
        event_of(history, step)
        history.settle()
        for id, phase in before.items():
            if phase in FINAL:
                assert history.task(id).phase == phase


@settings(max_examples=100, deadline=None)
@given(steps, st.integers(0, 100))
def test_a_snapshot_goes_on_exactly_like_the_state_that_it_was_made_of(script, cut):
    history = History()
    for step in script:
        event_of(history, step)
        if step[0] % 4 == 0:
            history.settle()
    straight, resumed = Cluster(), Cluster()
    for number, (id, event) in enumerate(history.entries):
        if number == cut:
            resumed = from_bytes(resumed.to_bytes())
        evolve(straight, id, event)
        evolve(resumed, id, event)
    assert straight.digest() == resumed.digest() == history.cluster.digest()
    history.cluster = resumed
    assert history.settle() is not None


@settings(max_examples=100, deadline=None)
@given(steps)
def test_every_index_follows_from_the_tasks(script):
    history = History()
    for step in script:
        event_of(history, step)
    cluster = history.cluster
    anew = from_bytes(cluster.to_bytes())
    assert {k: set(v) for k, v in cluster.by_phase.items() if v} == {k: set(v) for k, v in anew.by_phase.items() if v}
    assert [t.id for t in cluster.ready.in_order(cluster.tasks, set())] == [t.id for t in anew.ready.in_order(anew.tasks, set())]
    assert [t.id for t in cluster.due_backoffs(10**9)] == [t.id for t in anew.due_backoffs(10**9)]
    assert [t.id for t in cluster.due_deadlines(10**9)] == [t.id for t in anew.due_deadlines(10**9)]
    for worker in cluster.workers:
        assert cluster.holdings.slots(worker) == anew.holdings.slots(worker) >= 0
        assert cluster.holdings.light(worker) == anew.holdings.light(worker) >= 0
