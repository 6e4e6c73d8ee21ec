"""The numbers as files: Prometheus text for machines that scrape, JSON for everybody else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from mloc.services.metrics.counts import DISPATCHED, READY, STATES, WAITING, Counts
from mloc.services.metrics.histogram import Histogram


class Surroundings(Struct, frozen=True, gc=False):
    """What the log alone does not say."""

    updated_ms: int
    event_lag_sec: float = 0.0
    tree_lag_sec: float = 0.0
    result_failures: int = 0  # writes of result files that were tried again
    waiting_callbacks: int | None = None  # receivers that are still to be told; None where that is not known now


Labels = tuple[tuple[str, str], ...]
Samples = Iterable[tuple[Labels, float]]


def as_prometheus(counts: Counts, around: Surroundings) -> bytes:
    """Text exposition format 0.0.4."""
    blocks = [
        *(_plain(name, kind, about, samples) for name, kind, about, samples in _numbers(counts, around)),
        _distribution("mloc_dispatch_latency_seconds", "From when a task could run to the start of its attempt.", [((), counts.dispatch)]),
        _distribution("mloc_publish_latency_seconds", "From an attempt's success to the publication of its result.", [((), counts.publication)]),
        _distribution(
            "mloc_run_duration_seconds", "Duration of successful attempts by executor.",
            [((("executor", name),), found) for name, found in sorted(counts.runs.items())],
        ),
    ]  # fmt: skip
    return ("\n".join(blocks) + "\n").encode()


def as_json(counts: Counts, around: Surroundings) -> bytes:
    tasks = dict(zip(STATES, counts.by_state, strict=True)) | {how: counts.ended.get(how, 0) for how in ("published", "cancelled", "timed_out")}
    values = {
        "updated_ms": around.updated_ms,
        "position": counts.position,
        "tasks": tasks,
        "submitted": counts.submitted,
        "backlog": _backlog(counts),
        "open_parents": len(counts.parents),
        "events": counts.events,
        "retries": counts.retries,
        "failures": counts.failures,
        "tokens": counts.tokens,
        "workers_alive": sorted(counts.workers),
        "workers_lost": counts.workers_lost,
        "event_lag_sec": around.event_lag_sec,
        "tree_lag_sec": around.tree_lag_sec,
        "result_failures": around.result_failures,
        "waiting_callbacks": around.waiting_callbacks,
        "dispatch_latency_sec": _summary(counts.dispatch),
        "publish_latency_sec": _summary(counts.publication),
        "run_duration_sec": {name: _summary(found) for name, found in counts.runs.items()},
    }
    return msgspec.json.format(msgspec.json.encode(values), indent=2) + b"\n"


def _numbers(counts: Counts, around: Surroundings) -> Iterator[tuple[str, str, str, Samples]]:
    yield "mloc_tasks", "gauge", "Tasks that have not ended, by state.", _by("state", dict(zip(STATES, counts.by_state, strict=True)))
    yield "mloc_backlog_tasks", "gauge", "Tasks that wait: for others, for a worker, for its start.", [((), _backlog(counts))]
    yield "mloc_parents_open", "gauge", "Pipelines and sharded tasks that have not ended.", [((), len(counts.parents))]
    yield "mloc_workers_alive", "gauge", "Workers that are registered and not lost.", [((), len(counts.workers))]
    about = "Age of the newest event that this service has counted, while it is behind."
    yield "mloc_event_lag_seconds", "gauge", about, [((), around.event_lag_sec)]
    yield "mloc_tree_lag_seconds", "gauge", "How far the result trees on disk are behind publication.", [((), around.tree_lag_sec)]
    if around.waiting_callbacks is not None:
        yield "mloc_callbacks_waiting", "gauge", "Receivers that wait to be told that a task ended.", [((), around.waiting_callbacks)]
    yield "mloc_submissions_total", "counter", "Tasks submitted, by task type.", _by("task_type", counts.submitted)
    yield "mloc_tasks_ended_total", "counter", "Tasks that ended, by outcome.", _by("outcome", counts.ended)
    yield "mloc_events_total", "counter", "Events of the control log, by type.", _by("type", counts.events)
    yield "mloc_attempt_failures_total", "counter", "Failed attempts, by type of error.", _by("type", counts.failures)
    yield "mloc_requeues_total", "counter", "Tasks that were put back to wait for a worker.", [((), counts.retries)]
    yield "mloc_workers_lost_total", "counter", "Workers that gave no sign of life.", [((), counts.workers_lost)]
    yield "mloc_result_failures_total", "counter", "Writes of result files that failed and were tried again.", [((), around.result_failures)]
    yield "mloc_tokens_total", "counter", "Tokens of successful attempts, by executor and kind.", [
        ((("executor", executor), ("kind", kind.removesuffix("_tokens"))), count)
        for executor, kinds in sorted(counts.tokens.items())
        for kind, count in sorted(kinds.items())
    ]


def _backlog(counts: Counts) -> int:
    return counts.by_state[WAITING] + counts.by_state[READY] + counts.by_state[DISPATCHED]


def _by(label: str, values: Mapping[str, float]) -> list[tuple[Labels, float]]:
    return [(((label, name),), value) for name, value in sorted(values.items())]


def _plain(name: str, kind: str, about: str, samples: Samples) -> str:
    lines = [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
    return "\n".join([*lines, *(f"{name}{_shown(labels)} {round(value, 6)}" for labels, value in samples)])


def _distribution(name: str, about: str, found: list[tuple[Labels, Histogram]]) -> str:
    lines = [f"# HELP {name} {about}", f"# TYPE {name} histogram"]
    for labels, histogram in found:
        seen = 0
        for bound, count in zip((*(f"{bound:g}" for bound in histogram.bounds), "+Inf"), histogram.counts, strict=True):
            seen += count
            lines.append(f"{name}_bucket{_shown((*labels, ('le', bound)))} {seen}")
        lines += [f"{name}_sum{_shown(labels)} {histogram.sum:.6f}", f"{name}_count{_shown(labels)} {seen}"]
    return "\n".join(lines)


def _shown(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _summary(found: Histogram) -> dict[str, Any]:
    count = found.count
    return {
        "count": count, "mean": found.sum / count if count else None, "p50_at_most": found.quantile(0.5), "p95_at_most": found.quantile(0.95),
        "p99_at_most": found.quantile(0.99),
    }  # fmt: skip
