"""The statistics of a period are the sums over its tasks, however they were written down."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mloc.core.cluster import Cluster
from mloc.core.codec import decode
from mloc.core.events import AttemptSucceeded, Device, Hardware, Need, TaskSubmitted, WorkerRegistered
from mloc.core.fold import evolve
from mloc.services.read_model.gathering import Gathering
from mloc.services.read_model.outcomes import taken
from mloc.services.read_model.reader import Reader
from mloc.services.read_model.schema import DAY, HOUR, MONTH
from mloc.services.read_model.statistics import Period, PeriodError, period, spans, statistics
from mloc.services.read_model.writer import HOUR_MS, Writer
from tests.histories import History
from tests.services.read_model.random_histories import IN_MEMORY, random_history

ALWAYS = period("", "")


def model_of(history: History, path: Path, seed: int) -> Reader:
    gathering, writer, chance = Gathering(Cluster(), {}), Writer(path), random.Random(seed)
    gathering.start()
    for number, entry in enumerate(history.entries, 1):
        gathering.fold(entry)
        if number == len(history.entries) or chance.random() < 0.15:
            writer.write(gathering.take(), replace(writer.cursor, position=entry.id, is_complete=True))
    writer.close()
    return Reader(path)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), owner=st.sampled_from(["", "ada", "bo", "nobody"]))
def test_states_objectives_and_times_are_those_of_the_tasks(seed: int, owner: str) -> None:
    history = random_history(seed)
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        reader = model_of(history, Path(folder) / "model", seed)
        shown = statistics(reader.sums(spans(ALWAYS), owner)[1])
        reader.close()
    # given all that the log says, counted by hand
    cluster, due = Cluster(), {}
    for entry in history.entries:
        event = decode(entry.type, entry.payload)
        if isinstance(event, TaskSubmitted) and b"deadline_sec" in bytes(event.spec):
            due[event.task] = int(entry.id.partition("-")[0]) + (500 if b"0.5" in bytes(event.spec) else 3_600_000)
        evolve(cluster, entry.id, event)
    tasks = [task for task in cluster.tasks.values() if not task.shard and owner in ("", task.owner)]
    leaves = [task for task in tasks if task.task_type]
    good = [task for task in leaves if task.phase == "published"]
    verdicts = Counter(
        task.phase == "published" and task.ended_ms <= due[task.id]
        for task in leaves
        if task.id in due and task.phase in ("published", "dead_lettered", "timed_out")
    )
    # then the statistics say the same
    assert shown.tasks == Counter(task.phase for task in leaves)
    assert shown.pipelines == Counter(task.phase for task in tasks if not task.task_type)
    assert (shown.slo_met, shown.slo_missed) == (verdicts[True], verdicts[False])
    assert {name: one.tasks for name, one in shown.by_type.items()} == {
        name: Counter(task.phase for task in leaves if task.task_type == name) for name in {task.task_type for task in leaves}
    }
    if good:
        seconds = sorted((task.ended_ms - task.submitted_ms) / 1000 for task in good)
        assert shown.total_sec is not None
        assert shown.total_sec.mean == pytest.approx(sum(seconds) / len(seconds))
        assert shown.total_sec.p95 == pytest.approx(seconds[-(-95 * len(seconds) // 100) - 1], rel=0.03)


def test_tokens_devices_and_cost_are_added_up_over_all_attempts(tmp_path: Path) -> None:
    # given a worker of two devices for 3.60 an hour, and an attempt of 100 s on one of them
    history = History()
    hardware = Hardware("h", 8, 2**36, (Device(0, "NVIDIA H200", 2**37), Device(1, "NVIDIA H200", 2**37)))
    history.add(WorkerRegistered(worker="w", incarnation=1, run_id="run-1", hardware=hardware, task_types=("sft",), slots=4, cost_per_hour=3.6))
    history.submit("a", "sft", need=Need("sft", gpus=1, cpu=3.0), model="org/tiny")
    history.submit("b", "echo", model="org/other")
    history.decide()
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12, "num_requests": 2, "engine": "none"}
    history.add(AttemptSucceeded(task="a", attempt=1, worker="w", incarnation=1, duration_ms=100_000.0, usage=usage))
    history.settle()
    reader = model_of(history, tmp_path / "model", 1)
    shown = statistics(reader.sums(spans(ALWAYS), "ada")[1])
    assert (shown.prompt_tokens, shown.completion_tokens, shown.total_tokens, shown.requests) == (5, 7, 12, 2)
    assert (shown.gpu_seconds, shown.cpu_seconds, shown.cost) == (100.0, 300.0, pytest.approx(0.05))
    assert shown.success_rate == 1.0
    # and the same by what they are of
    assert [(name, one.total_tokens, one.gpu_seconds) for name, one in shown.by_model.items()] == [("org/tiny", 12, 100.0), ("org/other", 0, 0.0)]
    assert {name: one.total_tokens for name, one in shown.by_type.items()} == {"sft": 12, "echo": 0}
    assert shown.by_owner == {}
    everyone = statistics(reader.sums(spans(ALWAYS), "", by_owner=True)[1])
    assert {name: (one.total_tokens, one.gpu_seconds) for name, one in everyone.by_owner.items()} == {"ada": (12, 100.0)}
    assert (everyone.total_tokens, everyone.tasks) == (shown.total_tokens, shown.tasks)
    # and a task without a device has the share of a slot
    task = replace(history.cluster.tasks["a"], need=Need("echo"))
    assert taken(task, history.cluster.workers["w"], 1000.0) == {"cpu_sec": 1000.0, "cost": pytest.approx(0.25)}


@given(start=st.integers(400_000, 420_000), hours=st.integers(1, 30_000))
def test_a_period_is_cut_into_months_days_and_hours_without_gap_or_overlap(start: int, hours: int) -> None:
    of = Period(start * HOUR_MS, (start + hours) * HOUR_MS)
    cut = sorted((first, end, grain) for grain, first, end in spans(of) if first < end)
    assert cut[0][0] == of.start_ms
    assert cut[-1][1] == of.end_ms
    assert all(one[1] == other[0] for one, other in pairwise(cut))
    rows = sum((end - first) / {HOUR: HOUR_MS, DAY: 24 * HOUR_MS, MONTH: 28 * 24 * HOUR_MS}[grain] for first, end, grain in cut)
    assert rows < 46 + 60 + 50


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        ("2026-11-21", "2026-11-21", 24), ("2026-11-21", "2026-11-22", 48), ("2026-11-21T10:00:00Z", "2026-11-21T12:00:00Z", 2),
        ("2026-11-21T10:59:59", "2026-11-21 11:00:01", 2), ("2026-11-21T10:00+02:00", "2026-11-21T09:00", 1),
        ("2026-11-21T10:00:00 02:00", "2026-11-21T09:00", 1),
    ],
)  # fmt: skip
def test_a_date_at_the_end_includes_its_day_and_a_time_is_rounded_to_whole_hours_in_utc(start: str, end: str, hours: int) -> None:
    of = period(start, end)
    assert of.end_ms - of.start_ms == hours * HOUR_MS
    assert of.start_ms % HOUR_MS == 0


@pytest.mark.parametrize(
    ("start", "end", "field"),
    [
        ("yesterday", "", "start_date"), ("", "2026-13-01", "end_date"), ("2026-11-22", "2026-11-21", "end_date"),
        ("0001-01-01T00:00", "", "start_date"), ("0001-01-01", "", "start_date"), ("9999-12-31", "9999-12-31", "start_date"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_the_name_of_its_field(start: str, end: str, field: str) -> None:
    with pytest.raises(PeriodError) as refused:
        period(start, end)
    assert refused.value.field == field
