"""Each policy's choice, that the log says which one holds, and that no policy leaves a task waiting beside a worker that it may go to."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mloc.core.cluster import from_bytes
from mloc.core.decisions import placement
from mloc.core.decisions.dispatch_policy import PINNED, POLICIES
from mloc.core.decisions.placement import Room
from mloc.core.decisions.scheduling import Limits
from mloc.core.events import Device, Error, Hardware, Need, PolicyChanged, TaskDispatched, WorkerRegistered, WorkerRetired
from mloc.core.explain import explain
from tests.core.history import GIB, GPU, TRAIN, History, dispatch_of, only


def under(policy: str) -> History:
    history = History()
    history.limits = Limits(heartbeat_ttl_ms=10_000, dispatch_policy=policy)
    return history


def sent(history: History) -> dict[str, str]:
    return {event.task: event.worker for event in only(history.settle(), TaskDispatched)}


def sized(id: str, gpus: int, gib: int) -> WorkerRegistered:
    hardware = Hardware("h", 8.0, 64 * GIB, tuple(Device(index, "NVIDIA H200", gib * GIB) for index in range(gpus)))
    return WorkerRegistered(worker=id, incarnation=1, run_id="run", hardware=hardware, task_types=("inference", "sft"))


def test_the_log_says_which_policy_holds_before_it_is_followed():
    history = under("first-fit")
    history.worker("w1")
    history.submit("a", TRAIN)
    first = history.decide()
    assert first == [PolicyChanged(dispatch="first-fit", by="scheduler")]
    history.add(*first)
    assert [type(event) for event in history.decide()] == [TaskDispatched]
    assert history.cluster.dispatch_policy == "first-fit"


def test_the_default_is_nothing_to_say_but_the_way_back_to_it_is():
    history = History()
    assert history.decide() == []
    history.add(PolicyChanged(dispatch="static"))
    assert history.decide() == [PolicyChanged(dispatch="best-fit", by="scheduler")]


def test_first_fit_fills_one_worker_before_the_next():
    history = under("first-fit")
    for id in ("w2", "w1", "w3"):
        history.worker(id, slots=2)
    for number in range(5):
        history.submit(f"t{number}", TRAIN)
    assert Counter(sent(history).values()) == {"w1": 2, "w2": 2, "w3": 1}


def test_min_satisfying_leaves_large_workers_free():
    history = under("min-satisfying")
    history.add(sized("large", 4, 141), sized("middle", 1, 80), sized("small", 1, 24))
    history.submit("a", Need("inference", gpus=1, gpu_memory=16 * GIB))
    history.submit("b", GPU)
    history.submit("c", GPU)
    assert sent(history) == {"a": "small", "b": "middle", "c": "large"}


def test_round_robin_goes_on_after_the_last_worker_even_from_a_snapshot():
    history = under("round-robin")
    for id in ("w1", "w2", "w3"):
        history.worker(id, slots=9)
    history.submit("a", TRAIN)
    assert sent(history) == {"a": "w1"}
    history.cluster = from_bytes(history.cluster.to_bytes())
    for id in "bcde":
        history.submit(id, TRAIN)
    assert sent(history) == {"b": "w2", "c": "w3", "d": "w1", "e": "w2"}


def test_static_ties_a_task_to_its_worker_and_lets_others_pass():
    history = under("static")
    for id in ("w1", "w2"):
        history.worker(id)
    for number in range(20):
        history.submit(f"t{number}", TRAIN)
    running = sent(history)
    assert sorted(running.values()) == ["w1", "w2"]
    waiting = next(task for task in history.cluster.tasks.values() if task.phase == "ready")
    assert "all busy" in explain(history.cluster, waiting).summary
    # when one of the two is done, the next that is tied to that worker takes its place, though it is not the first in line
    done = next(event for _, event in history.entries if isinstance(event, TaskDispatched) and event.worker == "w2")
    history.start(done)
    history.succeed(done)
    history.cluster.mean_ms["sft"] = 60_000.0  # nothing is sent ahead of need
    ties = {explain(history.cluster, task).reason for task in history.cluster.tasks.values() if task.phase == "ready"}
    assert ties == {"next", "busy"}
    assert set(sent(history).values()) == {"w2"}


def test_static_sends_most_tasks_to_the_same_worker_after_another_one_joined():
    alone, joined = under("static"), under("static")
    for history, ids in ((alone, "abc"), (joined, "abcd")):
        for id in ids:
            history.worker(id, slots=1000)
        for number in range(200):
            history.submit(f"t{number}", TRAIN)
    before, after = sent(alone), sent(joined)
    moved = {task for task in before if before[task] != after[task]}
    assert {after[task] for task in moved} == {"d"}
    assert 20 < len(moved) < 80
    assert min(Counter(before.values()).values()) > 40


def test_fixed_pipeline_keeps_the_stages_together_and_spreads_pipelines():
    history = under("fixed-pipeline")
    for id in ("w1", "w2", "w3"):
        history.worker(id, slots=100)
    for number in range(12):
        history.submit(f"p{number}", None, children=(f"p{number}.a", f"p{number}.b"))
        history.submit(f"p{number}.a", TRAIN, parent=f"p{number}", stage="a")
        history.submit(f"p{number}.b", GPU if number == 0 else TRAIN, parent=f"p{number}", stage="b")
    placed = sent(history)
    assert all(placed[f"p{number}.a"] == placed[f"p{number}.b"] for number in range(1, 12))
    assert len(set(placed.values())) == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_the_worker_of_the_last_failure_comes_last(policy):
    history = under(policy)
    for id in ("w1", "w2"):
        history.worker(id, slots=2)
    history.submit("a", TRAIN, backoff_sec=0.0)
    first = dispatch_of(history.settle(), "a")
    history.start(first)
    history.fail(first, Error("E", "x"))
    second = dispatch_of(history.settle(), "a")
    assert second.worker != first.worker
    history.add(WorkerRetired(worker=first.worker, incarnation=1))
    history.start(second)
    history.fail(second, Error("E", "x"))
    assert dispatch_of(history.settle(), "a").worker == second.worker


NEEDS = st.builds(
    Need, task_type=st.just("sft"), gpus=st.integers(0, 2), cpu=st.sampled_from([0.0, 0.1, 1.5, 3.0]), memory=st.sampled_from([0, 10 * GIB, 40 * GIB])
)
FLEETS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.sampled_from([1.0, 4.0, 8.0])), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.sampled_from(POLICIES), FLEETS, st.lists(NEEDS, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_no_worker_is_given_more_than_it_has_and_none_that_a_task_may_go_to_stays_idle(policy, fleet, needs, chance):
    history = under(policy)
    for number, (devices, slots, cpus) in enumerate(fleet):
        history.worker(f"w{number}", devices=devices, slots=slots, cpus=cpus)
    for number, need in enumerate(needs):
        history.submit(f"t{number}", need)
    running: list[TaskDispatched] = []
    for _ in range(len(needs) + 1):
        running += only(history.settle(), TaskDispatched)
        assert_within_bounds(history)
        assert_nothing_waits_in_vain(history, policy)
        if not running:
            break
        done = running.pop(chance.randrange(len(running)))
        history.start(done)
        history.succeed(done)
    # everything that fits anywhere ran, and all that it took is given back
    for task in history.cluster.tasks.values():
        fits = any(not placement.misfit(history.cluster, worker, task.need) for worker in history.cluster.workers.values())
        assert (task.phase == "published") == fits
    assert all(history.cluster.holdings.reserved(worker) == (0.0, 0) for worker in history.cluster.workers)


def assert_within_bounds(history: History) -> None:
    for worker in history.cluster.workers.values():
        held = [history.task(attempt.task).need for attempt in history.cluster.holdings.of(worker.id).values()]
        assert sum(need.cpu for need in held) <= worker.hardware.cpus + 1e-6
        assert sum(need.memory for need in held) <= worker.hardware.memory
        cpu, memory = history.cluster.holdings.reserved(worker.id)
        assert (cpu, memory) == (pytest.approx(sum(need.cpu for need in held)), sum(need.memory for need in held))


def assert_nothing_waits_in_vain(history: History, policy: str) -> None:
    cluster = history.cluster
    for task in cluster.tasks.values():
        if task.phase != "ready":
            continue
        fitting = [worker for worker in cluster.workers.values() if not placement.misfit(cluster, worker, task.need)]
        with_room = [worker for worker in fitting if Room(cluster, worker).place(task.need) is not None]
        explanation = explain(cluster, task)
        assert explanation.reason in ("busy", "never_fits")
        assert not with_room or (policy in PINNED and "tied to" in explanation.summary)


def test_a_task_that_waits_for_cores_says_how_many_are_free():
    history = History()
    history.worker("w1", slots=4)
    history.submit("a", Need("sft", cpu=6.0))
    history.submit("b", Need("sft", cpu=4.0))
    history.submit("c", Need("sft", memory=65 * GIB // 2))
    history.settle()
    history.submit("d", Need("sft", memory=GIB * 40))
    said = {id: explain(history.cluster, history.task(id)).workers[0].why for id in "bd"}
    assert said == {
        "b": "it is busy: 2 of its 8 CPUs are free, 4 are needed",
        "d": "it is busy: 31.5 of its 64.0 GiB of memory are free, 40.0 are needed",
    }
