"""Who joins the batch of an engine that runs on a GPU: all of its devices or none, after free ones, beside none that is to end, past nobody."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mloc.core.cluster import from_bytes
from mloc.core.decisions import placement
from mloc.core.decisions.joining import MOST_IN_BATCH
from mloc.core.events import (
    AttemptRecalled,
    AttemptStopped,
    AttemptStopRequested,
    CancelRequested,
    EngineReady,
    EngineSlept,
    EngineWoke,
    Event,
    HeldAttempt,
    Need,
    TaskDispatched,
    WorkerDrainRequested,
)
from mloc.core.explain import explain
from mloc.core.order import rank
from mloc.core.task import Task
from tests.core.history import GIB, History, dispatch_of, only

ONE, OTHER = "one@1/vllm", "other@2/vllm"
ASK = Need("inference", gpus=1, engine=ONE)
BOTH = Need("inference", gpus=2, engine=ONE)
ELSE = Need("inference", gpus=1, engine=OTHER)
WHOLE = Need("sft", gpus=1)


def ready(worker: str = "w", engine: str = ONE, *, takes_several: bool = True) -> EngineReady:
    return EngineReady(worker=worker, incarnation=1, engine=engine, seconds=9.0, takes_several=takes_several)


def running(history: History, task: str, need: Need = ASK) -> TaskDispatched:
    """The task runs, and its engine with it."""
    history.submit(task, need)
    sent = dispatch_of(history.settle(), task)
    history.start(sent)
    history.add(ready(sent.worker, need.engine))
    return sent


def sent_by(history: History, *tasks: str, need: Need = ASK) -> dict[str, TaskDispatched]:
    for task in tasks:
        history.submit(task, need)
    return {event.task: event for event in only(history.settle(), TaskDispatched)}


def test_a_task_joins_the_batch_of_the_engine_that_it_wants_and_the_log_says_so(history: History) -> None:
    history.worker(devices=1)
    first = running(history, "a")
    joined = sent_by(history, "b")["b"]
    assert (first.joins, joined.joins, joined.devices) == (False, True, (0,))
    assert [one.task for one in history.cluster.holdings.of("w").values()] == ["a", "b"]


def test_no_more_join_than_a_batch_is_for(history: History) -> None:
    history.worker(devices=1)
    first = running(history, "a")
    joined = sent_by(history, *(f"b{number}" for number in range(2 * MOST_IN_BATCH)))
    assert len(joined) == MOST_IN_BATCH - 1
    history.succeed(first)
    assert len(only(history.settle(), TaskDispatched)) == 1


@pytest.mark.parametrize(
    "need",
    [
        ELSE,
        WHOLE,
        replace(ASK, gpu_memory=10 * GIB),
        replace(ASK, task_type="eval"),
        replace(ASK, task_type="agent", parts=("retrieval",)),
        replace(ASK, engine="one@1"),
        replace(ASK, gpu_type="a100"),
        replace(ASK, memory=100 * GIB),
        replace(ASK, tags=("eu",)),
    ],
)
def test_what_brings_more_onto_the_device_or_does_not_fit_does_not_join(history: History, need: Need) -> None:
    history.worker(devices=1)
    history.add(replace(registration(history), task_types=("inference", "sft", "eval", "agent"), incarnation=2))
    history.add(replace(ready(), incarnation=2))
    running_under(history, 2)
    assert sent_by(history, "b", need=need) == {}
    history.add(CancelRequested(task="b"))  # whoever waits keeps the others from joining
    assert sent_by(history, "c")["c"].joins
    assert sent_by(history, "d", need=replace(ASK, task_type="agent"))["d"].joins


def registration(history: History) -> Any:
    return next(event for _, event in history.entries if type(event).__name__ == "WorkerRegistered")


def running_under(history: History, incarnation: int) -> None:
    history.submit("a", ASK)
    history.start(dispatch_of(history.settle(), "a"))
    history.add(replace(ready(), incarnation=incarnation))


def test_it_joins_none_that_stated_its_memory_because_others_may_be_beside_that(history: History) -> None:
    history.worker(devices=1)
    running(history, "a", replace(ASK, gpu_memory=30 * GIB))
    assert sent_by(history, "b") == {}


def test_all_devices_of_an_engine_are_joined_or_none(history: History) -> None:
    history.worker(devices=2)
    running(history, "a", BOTH)
    assert sent_by(history, "half") == {}
    history.add(CancelRequested(task="half"))
    joined = sent_by(history, "b", need=BOTH)["b"]
    assert (joined.joins, joined.devices) == (True, (0, 1))


def test_a_free_device_comes_first_on_whichever_worker_it_is(history: History) -> None:
    history.worker("w1", devices=1)
    running(history, "a")
    history.worker("w2", devices=1)
    assert [(sent.worker, sent.joins) for sent in sent_by(history, "b", "c").values()] == [("w2", False), ("w1", True)]


def test_of_several_batches_the_one_with_the_fewest_is_joined(history: History) -> None:
    history.worker(devices=2)
    running(history, "a")
    running(history, "b")
    joined = sent_by(history, "c", "d", "e", "f")
    assert sorted(sent.devices for sent in joined.values()) == [(0,), (0,), (1,), (1,)]


def test_only_an_engine_that_runs_and_takes_several_is_joined(history: History) -> None:
    history.worker(devices=1)
    history.submit("a", ASK)
    history.start(dispatch_of(history.settle(), "a"))
    assert sent_by(history, "b") == {}
    history.add(ready(takes_several=False))
    assert history.settle() == []
    history.add(EngineSlept(worker="w", incarnation=1, engine=ONE, asleep=True))
    assert history.settle() == []
    history.add(EngineWoke(worker="w", incarnation=1, engine=ONE, takes_several=True))
    assert dispatch_of(history.settle(), "b").joins


def test_nobody_joins_one_that_is_to_end(history: History) -> None:
    history.worker(devices=1)
    leaving = running(history, "a")
    sent_by(history, "b")
    history.add(CancelRequested(task="a"))
    assert only(history.settle(), AttemptStopRequested)
    assert sent_by(history, "c") == {}
    history.add(AttemptStopped(task="a", attempt=leaving.attempt, worker="w", incarnation=1))
    assert dispatch_of(history.settle(), "c").joins


def test_nobody_joins_one_that_is_to_be_taken_back(history: History) -> None:
    history.worker(devices=1)
    running(history, "a")
    sent_by(history, "b")  # and has not started
    history.add(WorkerDrainRequested(worker="w"), WorkerDrainRequested(worker="w", undo=True))
    history.submit("c", ASK)
    answers = history.decide()
    assert [type(event) for event in answers] == [AttemptRecalled]
    history.add(*answers)
    assert dispatch_of(history.settle(), "c").joins


@pytest.mark.parametrize("need", [ELSE, WHOLE, replace(ASK, gpu_memory=60 * GIB), replace(ASK, task_type="inference", engine="")])
def test_none_joins_while_an_older_or_more_urgent_task_waits_for_the_devices(history: History, need: Need) -> None:
    history.worker(devices=1)
    first = running(history, "a")
    history.submit("waits", need, priority=60)
    history.submit("urgent", ASK, priority=70)
    history.submit("later", ASK, priority=60)
    history.submit("not urgent", ASK)
    assert [event.task for event in only(history.settle(), TaskDispatched)] == ["urgent"]
    history.succeed(first)
    assert only(history.settle(), TaskDispatched) == []
    history.succeed(TaskDispatched(task="urgent", attempt=1, worker="w", incarnation=1))
    assert [event.task for event in only(history.settle(), TaskDispatched)] == ["waits"]


def test_one_that_waits_for_devices_elsewhere_keeps_nobody_from_joining(history: History) -> None:
    history.worker(devices=1)
    running(history, "a")
    sent_by(history, "never fits", need=replace(WHOLE, gpus=2))
    sent_by(history, "another type", need=replace(WHOLE, gpu_type="a100"))
    assert sent_by(history, "b")["b"].joins


def test_a_worker_that_registers_anew_has_its_batches_still(history: History) -> None:
    history.worker(devices=1)
    running(history, "a")
    sent_by(history, "b")
    held = tuple(HeldAttempt(task, 1, (0,)) for task in "ab")
    history.worker(devices=1, incarnation=2, attempts=held)
    assert sent_by(history, "c") == {}
    history.add(replace(ready(), incarnation=2))
    assert dispatch_of(history.settle(), "c").joins


def test_a_state_that_was_stored_has_the_same_batches(history: History) -> None:
    history.worker(devices=1)
    running(history, "a")
    history.submit("b", ASK)
    for cluster in (from_bytes(history.cluster.to_bytes()), history.cluster.copy()):
        assert cluster.digest() == history.cluster.digest()
        history.cluster = cluster
        assert [event.joins for event in only(history.decide(), TaskDispatched)] == [True]


def test_the_explanation_says_that_it_joins_and_for_whom_it_does_not(history: History) -> None:
    history.worker(devices=1)
    running(history, "a")
    history.submit("b", ASK)
    said = explain(history.cluster, history.task("b"))
    assert (said.reason, said.worker, said.workers[0].why) == ("next", "w", "it has room in the batch of the engine that the task wants")
    history.submit("waits", WHOLE, priority=90)
    history.settle()
    said = explain(history.cluster, history.task("b"))
    assert said.reason == "busy"
    assert said.workers[0].why == "it is busy: the engine that the task wants runs there, and waits, which comes first, waits for its devices"


# --- histories ---

NEEDS = st.sampled_from([ASK, ASK, ASK, BOTH, ELSE, WHOLE, replace(ASK, gpu_memory=30 * GIB), replace(ELSE, gpu_memory=30 * GIB)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), NEEDS, st.sampled_from([50, 50, 90])),
        st.tuples(st.sampled_from(["end", "cancel", "start"]), st.integers(0, 99), st.just(0)),
        st.tuples(st.just("ready"), st.sampled_from([ONE, OTHER]), st.integers(0, 1)),
    ),
    min_size=5, max_size=40,
)  # fmt: skip


def act(history: History, number: int, step: tuple[str, Any, int]) -> None:
    what, which, more = step
    held = sorted(history.cluster.holdings.all(), key=lambda one: (one.task, one.number))
    match what:
        case "submit":
            history.submit(f"t{number:02}", which, priority=more)
        case "ready":
            history.add(ready(f"w{more}", which))
        case "cancel" if history.cluster.tasks:
            history.add(CancelRequested(task=sorted(history.cluster.tasks)[which % len(history.cluster.tasks)]))
        case "start" | "end" if held:
            one = held[which % len(held)]
            sent = TaskDispatched(task=one.task, attempt=one.number, worker=one.worker, incarnation=one.incarnation)
            history.start(sent) if what == "start" else history.succeed(sent)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_happens_devices_have_one_engine_and_nobody_is_passed(steps: list[tuple[str, Any, int]]) -> None:
    history = History()
    history.worker("w0", devices=1)
    history.worker("w1", devices=2)
    for task in ("a", "b", "c"):
        running(history, task)
    for number, step in enumerate(steps):
        act(history, number, step)
        for _ in range(20):
            events = history.decide()
            look(history, events)
            if not events:
                break
            history.add(*events)
        said = {task: explain(history.cluster, history.task(task)) for task in history.cluster.phase("ready")}
        assert all(one.reason == "busy" for one in said.values()), said


def look(history: History, events: list[Event]) -> None:
    """By rules of its own, against the state on which it was decided."""
    cluster = history.cluster
    taken: dict[tuple[str, int], list[TaskDispatched]] = {}
    for event in only(events, TaskDispatched):
        for device in event.devices:
            there = [cluster.holdings.find(event.worker, key) for key in cluster.holdings.on_device(event.worker, device)]
            assert event.joins == bool(there) or cluster.tasks[event.task].need.gpu_memory
            for one in there if event.joins else ():
                assert one.devices == event.devices
                assert cluster.tasks[one.task].need.engine == cluster.tasks[event.task].need.engine
                assert not one.device_memory
                assert not one.stop_asked
                assert (one.task, one.number) not in cluster.holdings.unneeded
            assert not event.joins or len(there) + sum(one.joins for one in taken.get((event.worker, device), ())) < MOST_IN_BATCH
            taken.setdefault((event.worker, device), []).append(event)
    going = {event.task for event in only(events, TaskDispatched)}
    left = [task for task in map(cluster.tasks.get, cluster.phase("ready")) if task.id not in going and task.id not in cluster.doomed]
    for event in only(events, TaskDispatched):
        if event.joins:
            assert passed(cluster.tasks[event.task], event, left) == []
            assert free_elsewhere(history, cluster.tasks[event.task].need, taken) == []


def passed(task: Task, event: TaskDispatched, left: Iterable[Task]) -> list[str]:
    """Tasks that came before and could have used these devices, were they free."""
    worker_has = {"w0": 1, "w1": 2}[event.worker]
    return [other.id for other in left if rank(other) < rank(task) and other.need.gpus <= worker_has]


def free_elsewhere(history: History, need: Need, taken: dict[tuple[str, int], Any]) -> list[str]:
    found = []
    for worker in history.cluster.workers.values():
        held = {device for device in range(3) if history.cluster.holdings.on_device(worker.id, device) or (worker.id, device) in taken}
        if len(worker.hardware.devices) - len(held) >= need.gpus and not placement.misfit(history.cluster, worker, need):
            found.append(worker.id)
    return found
