"""Why a task waits: the first reason that holds, and the same answer as placement gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mloc.core.cluster import Cluster
from mloc.core.decisions.scheduling import Limits, decide
from mloc.core.events import (
    AttemptStarted,
    Device,
    Event,
    Hardware,
    LogStarted,
    Need,
    TaskDispatched,
    TaskSubmitted,
    WorkerDrainRequested,
    WorkerElasticChanged,
    WorkerLost,
    WorkerRegistered,
)
from mloc.core.explain import explain
from mloc.core.fold import evolve

CPU = Need("sft", cpu=1.0)


def given_log(*events: Event) -> Cluster:
    cluster = Cluster()
    for number, event in enumerate((LogStarted(log_id="l", run_id="r"), *events), 1):
        evolve(cluster, f"{1000 + number}-0", event)
    return cluster


def worker(id: str = "w", *, types: tuple[str, ...] = ("sft",), tags: tuple[str, ...] = (), cpus: float = 4.0, gpus: int = 0) -> WorkerRegistered:
    hardware = Hardware("h", cpus, 1 << 40, tuple(Device(index, "H200", 1 << 37) for index in range(gpus)))
    return WorkerRegistered(worker=id, incarnation=1, run_id="r", hardware=hardware, task_types=types, tags=tags)


def task(id: str = "t", need: Need = CPU, **fields) -> TaskSubmitted:
    return TaskSubmitted(task=id, name=id, task_type=need.task_type, need=need, **fields)


@pytest.mark.parametrize(
    ("events", "reason", "words"),
    [
        ([task()], "no_worker", "no worker is there"),
        ([worker(), WorkerLost(worker="w", incarnation=1), task()], "no_worker", "no worker is there"),
        ([worker(types=("echo",)), task()], "no_worker", "none of 1 worker offers task type sft"),
        ([worker(), task(need=Need("sft", cpu=8.0))], "never_fits", "it has 4 CPUs, 8 are needed"),
        ([worker(), task(need=Need("sft", tags=("fast",)))], "never_fits", "it lacks the tag fast"),
        ([worker(), task(need=Need("sft", gpus=1))], "never_fits", "it has 0 GPUs, 1 are needed"),
        ([worker(), WorkerDrainRequested(worker="w"), task()], "held", "w would fit and is draining"),
        ([worker(), WorkerElasticChanged(worker="w", enabled=False), task()], "held", "w would fit and is switched off"),
        ([worker(), task("a"), task(depends_on=("a",))], "held", "it waits for a"),
        ([worker(), task("a"), TaskDispatched(task="a", attempt=1, worker="w", incarnation=1), task()], "busy", "all busy"),
        ([worker(), task()], "next", "next in line"),
        ([worker(), task(), TaskDispatched(task="t", attempt=1, worker="w", incarnation=1)], "sent", "was sent to worker w"),
        ([worker(), task(), TaskDispatched(task="t", attempt=673_040, worker="w", incarnation=1)], "sent", "attempt 1 was sent"),
    ],
)
def test_the_first_reason_that_holds_is_given(events: list[Event], reason: str, words: str) -> None:
    cluster = given_log(*events)
    explanation = explain(cluster, cluster.tasks["t"])
    assert explanation.reason == reason
    assert words in explanation.summary


WORKERS = st.lists(
    st.builds(
        worker, id=st.sampled_from("abcd"), types=st.sampled_from([("sft",), ("echo",), ("sft", "echo")]), tags=st.sampled_from([(), ("x",)]),
        cpus=st.sampled_from([1.0, 4.0]), gpus=st.integers(0, 2),
    ),
    max_size=4, unique_by=lambda event: event.worker,
)  # fmt: skip
NEEDS = st.builds(
    Need, task_type=st.sampled_from(["sft", "echo"]), gpus=st.integers(0, 2), cpu=st.sampled_from([0.0, 2.0]), tags=st.sampled_from([(), ("x",)])
)


@given(WORKERS, NEEDS, st.sets(st.sampled_from("abcd")))
def test_a_task_is_next_in_line_exactly_when_it_is_dispatched(workers: list[WorkerRegistered], need: Need, busy: set[str]) -> None:
    taken = [
        event
        for one in workers
        if one.worker in busy
        for held in (f"held-{one.worker}",)
        for devices in (tuple(device.index for device in one.hardware.devices),)
        for event in (
            task(held, Need(one.task_types[0], gpus=len(devices))),
            TaskDispatched(task=held, attempt=1, worker=one.worker, incarnation=1, devices=devices),
            AttemptStarted(task=held, attempt=1, worker=one.worker, incarnation=1),
        )
    ]
    cluster = given_log(*workers, *taken, task(need=need))
    explanation = explain(cluster, cluster.tasks["t"])
    dispatched = {event.worker for event in decide(cluster, 9999, {}, Limits()) if isinstance(event, TaskDispatched)}
    assert (explanation.reason == "next") == bool(dispatched)
    assert dispatched <= {verdict.worker for verdict in explanation.workers if verdict.has_room}


def test_a_type_that_nobody_offers_is_explained_with_what_each_worker_lacks_for_it() -> None:
    words = 'it lacks chromadb: pip install "mloc[rag]"'
    workers = [replace(worker(id), lacks={"rag": words, "agent": "it lacks langchain"}) for id in ("a", "b")]
    cluster = given_log(*workers, worker("c"), TaskSubmitted(task="t", task_type="rag", need=Need("rag")))
    said = explain(cluster, cluster.tasks["t"])
    assert said.reason == "no_worker"
    assert said.summary == f"none of 3 workers offers task type rag (a and 1 more: {words})"


def test_a_part_that_nobody_offers_is_explained_with_what_would_help_and_no_change_of_the_task() -> None:
    words = 'the harness lm-eval needs lm_eval: pip install "mloc[eval]"'
    judging = replace(worker("a"), task_types=("eval",), lacks={"eval/lm-eval": words})
    submitted = TaskSubmitted(task="t", task_type="eval", need=Need("eval", parts=("lm-eval",)))
    cluster = given_log(judging, worker("b"), submitted)
    said = explain(cluster, cluster.tasks["t"])
    assert said.reason == "no_worker"
    assert said.summary == f"none of 2 workers offers task type eval with lm-eval (a: {words})"
    assert said.change == ""
    assert [verdict.why for verdict in said.workers] == ["it does not offer eval/lm-eval", "it does not offer task type eval"]
    both = replace(worker("a"), lacks={"sft/wandb": "no wandb: pip install w", "sft/deepspeed": "no deepspeed: pip install d"})
    trained = given_log(both, TaskSubmitted(task="t", task_type="sft", need=Need("sft", parts=("deepspeed", "wandb"))))
    assert explain(trained, trained.tasks["t"]).summary.endswith("(a: no deepspeed: pip install d, and no wandb: pip install w)")
    able = given_log(judging, replace(judging, worker="c", lacks={}), submitted)
    assert explain(able, able.tasks["t"]).worker == "c"
