"""The report of what tasks did: success, times by type, causes of failure, use of workers and cost, as Markdown. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from mloc.services.intake.commands.source import has_ended, milliseconds

View = dict[str, Any]


class Times(Struct):
    """Of tasks of one type; seconds."""

    waited: list[float] = []
    ran: list[float] = []
    ended: int = 0
    published: int = 0


def report(views: Sequence[View], workers: Sequence[View], now_ms: int, of: str, sums: View) -> str:
    """Markdown. `views`: all tasks, stages and shards that were asked for; `of` says which these are; `sums` as `Source.statistics` gives them."""
    roots = [view for view in views if not view["parent"]]
    leaves = [view for view in views if not view["children"]]
    ended = [view for view in roots if has_ended(view)]
    done = sum(view["state"] == "published" for view in ended)
    lines = [
        "# Report", "", of, "",
        f"- {len(roots)} tasks submitted, {len(ended)} ended, {len(roots) - len(ended)} open",
        f"- success rate: {_percent(done, len(ended))} ({done} of {len(ended)} that ended)",
        f"- attempts beyond the first: {sum(max(0, view['attempts'] - 1) for view in leaves)}",
        "", "## Times by executor", "",
        *_table(("executor", "ended", "success", "mean s", "p95 s", "mean wait s", "p95 wait s"), _time_rows(leaves)),
        "", "## Causes of failure", "", *_table(("error", "tasks", "executor", "for example"), _cause_rows(leaves)),
        "", "## Tokens and GPU time", "", *_sum_tables(sums),
        "", "## Use of workers and cost", "",
        *_table(("worker", "attempts", "busy h", "per hour", "cost"), _use_rows(leaves, workers, now_ms)),
        "", "Busy hours count the last attempt of each task, overlapping ones once; cost is busy hours times the worker's WORKER_COST_PER_HOUR.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _time_rows(leaves: Sequence[View]) -> list[tuple[str, ...]]:
    by_type: dict[str, Times] = defaultdict(Times)
    for view in leaves:
        if not has_ended(view):
            continue
        times = by_type[view["task_type"]]
        times.ended += 1
        times.published += view["state"] == "published"
        submitted, started, ended = (milliseconds(view[name]) for name in ("submitted_at", "started_at", "ended_at"))
        if started:
            times.waited.append(max(0, started - submitted) / 1000)
        if started and ended and view["state"] == "published":
            times.ran.append(max(0, ended - started) / 1000)
    return [
        (name, str(times.ended), _percent(times.published, times.ended), _mean(times.ran), p95(times.ran), _mean(times.waited), p95(times.waited))
        for name, times in sorted(by_type.items())
    ]  # fmt: skip


def _cause_rows(leaves: Sequence[View]) -> list[tuple[str, ...]]:
    failed = [view for view in leaves if has_ended(view) and view["state"] != "published"]
    counted = Counter((_cause(view), view["task_type"]) for view in failed)
    example = {(_cause(view), view["task_type"]): view for view in failed}
    rows: list[tuple[str, ...]] = []
    for (cause, kind), count in counted.most_common():
        view = example[cause, kind]
        message = (view["error"] or {}).get("message") or view["reason"]
        rows.append((cause, str(count), kind, f"{view['task_id']}: {message[:120]}"))
    return rows


def _cause(view: View) -> str:
    return str(view["error"]["type"] if view["error"] else view["state"])


def _sum_tables(sums: View) -> list[str]:
    if missing := sums.get("missing"):
        return [f"Not known: {missing}."]
    lines = list[str]()
    for of in ("type", "model", "owner"):
        groups = {name: took for name, took in sums.get(f"by_{of}", {}).items() if took["total_tokens"] or took["gpu_seconds"] or took["cost"]}
        if not groups and of != "type":
            continue
        rows = [
            (name, f"{took['prompt_tokens']:,}", f"{took['completion_tokens']:,}", f"{took['total_tokens']:,}", f"{took['gpu_seconds']:,.0f}",
             f"{took['cost']:.2f}")
            for name, took in groups.items()
        ]  # fmt: skip
        lines += [*_table((of, "prompt tokens", "completion tokens", "tokens", "GPU-seconds", "cost"), rows), ""]
    start = f" since {sums['start']}" if sums.get("start") and not sums["start"].startswith("1970-01-01T00") else ""
    return [*lines, f"Of all attempts of tasks that were submitted{start}, failed ones too; a share of a worker costs that share of its price."]


def _use_rows(leaves: Sequence[View], workers: Sequence[View], now_ms: int) -> list[tuple[str, ...]]:
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    attempts: Counter[str] = Counter()
    for view in leaves:
        worker, started = view["worker_id"], milliseconds(view["started_at"])
        if worker and started:
            attempts[worker] += view["attempts"]
            spans[worker].append((started, milliseconds(view["ended_at"]) or now_ms))
    price = {worker["worker_id"]: float(worker["cost_per_hour"] or 0) for worker in workers}
    rows, total_hours, total_cost = [], 0.0, 0.0
    for worker in sorted({*spans, *price}):
        hours = union_ms(spans[worker]) / 3_600_000
        cost = hours * price.get(worker, 0.0)
        total_hours, total_cost = total_hours + hours, total_cost + cost
        rows.append((worker, str(attempts[worker]), f"{hours:.2f}", f"{price[worker]:.2f}" if price.get(worker) else "-", f"{cost:.2f}"))
    return [*rows, ("all", str(attempts.total()), f"{total_hours:.2f}", "", f"{total_cost:.2f}")] if rows else []


def union_ms(spans: Sequence[tuple[int, int]]) -> int:
    """The time that is covered by at least one span."""
    covered, until = 0, 0
    for start, end in sorted(spans):
        covered += max(0, end - max(start, until))
        until = max(until, end)
    return covered


def p95(values: Sequence[float]) -> str:
    """The nearest-rank 95th percentile."""
    ordered = sorted(values)
    return f"{ordered[max(0, -(-95 * len(ordered) // 100) - 1)]:.2f}" if ordered else "-"


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}" if values else "-"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return ["none"]
    cells = [[" ".join("".join(char if char.isprintable() else " " for char in cell).split()).replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |", *(f"| {' | '.join(row)} |" for row in cells)]
