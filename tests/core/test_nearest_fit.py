"""What a person would have to ask otherwise so that a task runs on the fleet as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mloc.core.cluster import Cluster
from mloc.core.decisions import nearest_fit as nearest_fits
from mloc.core.decisions.nearest_fit import _cost, nearest_fit
from mloc.core.decisions.placement import misfit
from mloc.core.events import Device, Hardware, LogStarted, Need, WorkerDrainRequested, WorkerElasticChanged, WorkerRegistered
from mloc.core.explain import explain_need
from mloc.core.fold import evolve

GIB = 2**30


def fleet(*events) -> Cluster:
    cluster = Cluster()
    for number, event in enumerate((LogStarted(log_id="l", run_id="r"), *events), 1):
        evolve(cluster, f"{1000 + number}-0", event)
    return cluster


def worker(id: str, *, types=("sft",), tags=(), cpus: float = 4.0, memory: int = 16 * GIB, gpus=()) -> WorkerRegistered:
    devices = tuple(Device(index, name, gib * GIB) for index, (name, gib) in enumerate(gpus))
    return WorkerRegistered(worker=id, incarnation=1, run_id="r", hardware=Hardware("h", cpus, memory, devices), task_types=types, tags=tags)


SMALL, LARGE = worker("w1", gpus=(("L4", 24),)), worker("w2", cpus=32.0, gpus=(("NVIDIA H100", 80), ("NVIDIA H100", 80)))


@pytest.mark.parametrize(
    ("events", "need", "said"),
    [
        ([SMALL], Need("sft", gpus=1, gpu_memory=80 * GIB), "gpu.memory 24Gi instead of 80Gi would fit w1"),
        ([SMALL, LARGE], Need("sft", gpus=1, gpu_memory=96 * GIB), "gpu.memory 80Gi instead of 96Gi would fit w2"),
        ([SMALL, LARGE], Need("sft", gpus=4, gpu_type="H100"), "gpu.count 2 instead of 4 would fit w2"),
        ([SMALL], Need("sft", gpus=1, gpu_type="h200"), "gpu.type any instead of h200 would fit w1"),
        ([SMALL], Need("sft", gpus=2, gpu_type="h200", gpu_memory=80 * GIB),
         "gpu.type any instead of h200 and gpu.memory 24Gi instead of 80Gi and gpu.count 1 instead of 2 would fit w1"),
        ([SMALL], Need("sft", cpu=6.5, tags=("fast",)), "tags [] instead of [fast] and cpu 4 instead of 6.5 would fit w1"),
        ([SMALL], Need("sft", memory=64 * GIB), "memory 16Gi instead of 64Gi would fit w1"),
        ([worker("w1"), LARGE], Need("sft", gpus=3), "gpu.count 2 instead of 3 would fit w2"),
        ([SMALL, WorkerDrainRequested(worker="w1")], Need("sft"), "ending the drain of w1 would let it run there"),
        ([SMALL, WorkerElasticChanged(worker="w1", enabled=False)], Need("sft", cpu=8.0), "cpu 4 instead of 8 and switching w1 on would fit w1"),
        ([worker("w1")], Need("sft", gpus=1), "gpu.count 0 instead of 1 would fit w1"),
        ([SMALL], Need("sft", cpu=2.0), "None"),
        ([SMALL], Need("echo", cpu=99.0), "None"),
        ([], Need("sft"), "None"),
    ],
)  # fmt: skip
def test_the_smallest_change_is_said_in_the_words_of_a_task_file(events, need, said):
    assert str(nearest_fit(fleet(*events), need)) == said


FLEETS = st.lists(
    st.builds(
        worker, id=st.sampled_from("abc"), tags=st.sampled_from([(), ("x",)]), cpus=st.sampled_from([1.0, 4.0]), memory=st.sampled_from([0, 8 * GIB]),
        gpus=st.sampled_from([(), (("L4", 24),), (("H100", 80), ("L4", 24))]),
    ),
    max_size=3, unique_by=lambda event: event.worker,
)  # fmt: skip
NEEDS = st.builds(
    Need, task_type=st.just("sft"), tags=st.sampled_from([(), ("x",), ("x", "y")]), cpu=st.sampled_from([0.0, 2.0, 8.0]),
    memory=st.sampled_from([0, 16 * GIB]), gpus=st.integers(0, 3), gpu_type=st.sampled_from(["any", "h100", "b200"]),
    gpu_memory=st.sampled_from([0, 40 * GIB, 200 * GIB]),
)  # fmt: skip


@given(FLEETS, NEEDS, st.booleans())
def test_the_change_is_enough_and_no_part_of_it_is_idle(workers, need, off):
    cluster = fleet(*workers, *([WorkerElasticChanged(worker=workers[0].worker, enabled=False)] if off and workers else []))
    fit = nearest_fit(cluster, need)
    fits_as_it_is = any(not misfit(cluster, one, need) for one in cluster.workers.values())
    assert (fit is None) == (fits_as_it_is or not workers)
    if fit is not None:
        there = replace(cluster.workers[fit.worker], disabled=False)
        assert not misfit(cluster, there, fit.need)
        for field in ("tags", "cpu", "memory", "gpu_type", "gpus"):
            if getattr(fit.need, field) != getattr(need, field):
                assert misfit(cluster, there, replace(fit.need, **{field: getattr(need, field)}))


def test_a_dry_look_names_the_worker_that_the_scheduler_would_choose():
    cluster = fleet(worker("w2", cpus=8.0), SMALL)
    assert explain_need(cluster, Need("sft", cpu=6.0)).worker == "w2"
    assert explain_need(cluster, Need("sft", cpu=9.0)).change == "cpu 8 instead of 9 would fit w2"


@given(FLEETS, NEEDS, st.integers(0, 12), st.randoms(use_true_random=False))
def test_in_a_large_fleet_the_fit_is_the_one_of_its_shapes(shapes, need, copies, chance):
    # given each of a few workers many times over, in any order of ids
    few = fleet(*shapes)
    many = [replace(shape, worker=f"{chance.randrange(10**9)}-{number}") for shape in shapes for number in range(copies * 40 + 1)]
    large = fleet(*many)
    # then what would have to change is what would have to change among the few
    expected, found = nearest_fit(few, need), nearest_fit(large, need)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert _cost(found, need) == _cost(expected, need)
        assert not misfit(large, large.workers[found.worker], found.need)


def test_the_only_worker_that_nearly_fits_is_found_behind_thousands_and_few_are_looked_at_closely(monkeypatch):
    small = [worker(f"a{number}", memory=2 * GIB + number, gpus=(("L4", 24),)) for number in range(3000)]
    cluster = fleet(*small, worker("z", memory=16 * GIB, gpus=(("NVIDIA H100", 80),)))
    looked = []
    monkeypatch.setattr(nearest_fits, "_of_worker", lambda *a, real=nearest_fits._of_worker: looked.append(a) or real(*a))
    assert str(nearest_fit(cluster, Need("sft", memory=16 * GIB, gpus=1, gpu_memory=96 * GIB))) == "gpu.memory 80Gi instead of 96Gi would fit z"
    assert len(looked) <= nearest_fits.MOST_SHAPES
