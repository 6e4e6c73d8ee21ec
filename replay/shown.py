"""What replay found, as text for a person and as JSON for programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from mloc.core import log_ids, moment
from mloc.core.task import FINAL, Task
from mloc.core.worker import Worker
from mloc.replay.again import Again
from mloc.replay.as_of import AsOf, Happened
from mloc.replay.difference import Change, Difference, Point
from mloc.replay.exporting import Exported
from mloc.replay.measures import Measured
from mloc.replay.rebuild import Rebuilt
from mloc.replay.verify import Verdict, Verified
from mloc.replay.what_if import WhatIf

_MEASURES: tuple[tuple[str, Callable[[Measured], int | float]], ...] = (
    ("tasks", lambda one: one.tasks),
    ("published", lambda one: one.published),
    ("dead-lettered", lambda one: one.dead_lettered),
    ("cancelled, timed out", lambda one: one.ended_otherwise),
    ("not ended", lambda one: one.open),
    ("attempts", lambda one: one.attempts),
    ("workers used", lambda one: one.workers),
    ("all of it, s", lambda one: one.makespan_sec),
    ("wait, mean s", lambda one: one.wait_mean_sec),
    ("wait, p95 s", lambda one: one.wait_p95_sec),
    ("turnaround, mean s", lambda one: one.turnaround_mean_sec),
    ("turnaround, p95 s", lambda one: one.turnaround_p95_sec),
    ("busy, s", lambda one: one.busy_sec),
    ("cost", lambda one: one.cost),
)
SHORT_DIGEST = 16  # of 64 characters; --json has all


def rebuilt_text(found: Rebuilt) -> str:
    cluster = found.cluster
    return "\n".join(
        [
            f"events    {found.events:,} in {found.seconds:.2f} s ({found.events_per_sec:,.0f} events/s)",
            f"position  {cluster.position}  {_time(cluster.position)}",
            f"digest    {cluster.digest()}",
            f"tasks     {_counts(cluster.counts())}",
            f"workers   {_workers(list(cluster.workers.values()))}",
            *([f"unknown   {cluster.unknown:,} entries of types that this program does not know: upgrade MLOC"] if cluster.unknown else []),
        ]
    )


def rebuilt_json(found: Rebuilt) -> dict[str, Any]:
    cluster = found.cluster
    return {
        "events": found.events, "seconds": round(found.seconds, 4), "events_per_sec": round(found.events_per_sec), "position": cluster.position,
        "digest": cluster.digest(), "tasks": cluster.counts(), "submissions": cluster.submissions,
        "workers": {worker.id: worker.phase for worker in cluster.workers.values()}, "by_type": found.by_type, "unknown": cluster.unknown,
    }  # fmt: skip


def verified_text(found: Verified) -> str:
    lines = [
        f"log         {found.events:,} entries to {found.position}, ids in order, all readable" if not found.problems else "log         NOT IN ORDER",
        *(f"            {problem}" for problem in found.problems),
        f"rebuilt     digest {found.digest[:SHORT_DIGEST]}… from the log alone",
        f"encoding    {'the state comes back from its bytes as it was' if found.encoding_holds else 'THE STATE DOES NOT COME BACK FROM ITS BYTES'}",
    ]
    for verdict in found.verdicts:
        lines += _verdict_lines(verdict)
    if found.unknown:
        lines.append(f"unknown     {found.unknown:,} entries of types that this program does not know: upgrade MLOC")
    lines += [f"{name:11} NO SNAPSHOT, but --require asks for one" for name in found.missing]
    if not found.verdicts:
        lines.append("services    none has written a snapshot yet: there is nothing to compare with. Services write one every")
        lines.append("            STATE_FLUSH_INTERVAL_SEC and when they stop; is ORCHESTRATOR_STATE_DIR the folder in which they run?")
    same = sum(verdict.same for verdict in found.verdicts)
    lines.append(f"{'VERIFIED' if found.holds else 'NOT VERIFIED'}    {same} of {len(found.verdicts)} services hold the state that the log gives")
    return "\n".join(lines)


def _verdict_lines(verdict: Verdict) -> list[str]:
    after = f", {verdict.behind:,} entries before the end" if verdict.behind else ""
    if verdict.same:
        return [f"{verdict.service:11} digest {verdict.claimed[:SHORT_DIGEST]}… at {verdict.position}{after}: same"]
    head = f"{verdict.service:11} digest {verdict.claimed[:SHORT_DIGEST]}… at {verdict.position}{after}"
    return [
        f"{head}: DIFFERENT, by the log {verdict.rebuilt[:SHORT_DIGEST]}…",
        *(f"            {difference}" for difference in verdict.differs),
    ]


def verified_json(found: Verified) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(found)
    return {"ok": found.holds, **fields}


def as_of_text(found: AsOf, limit: int) -> str:
    lines = [
        f"as of     #{found.events:,}  {found.position}  {found.time}",
        f"digest    {found.digest}",
        f"tasks     {_counts(found.counts)}",
        f"workers   {_workers(found.workers)}",
    ]
    if found.tasks:
        chosen = sorted(found.tasks, key=_attention)[:limit]
        width = max(len(task.id) for task in chosen)
        lines.append("")
        lines += [f"  {task.id:{width}}  {task.phase:13} {task.worker:12} {task.reason}".rstrip() for task in chosen]
        if len(chosen) < len(found.tasks):
            lines.append(f"  showing {len(chosen)} of {len(found.tasks):,}; --limit N for more, --task ID for one whole")
    return "\n".join(lines)


def task_text(whole: dict[str, Any], events: list[Happened]) -> str:
    width = max(len(name) for name in whole)
    facts = [f"  {name:{width}}  {_fact(name, value)}" for name, value in whole.items() if value not in (None, "", 0, [], {}, ()) or name == "phase"]
    lines = [f"{happened.time}  {happened.id:18} {happened.type:20} {happened.what}".rstrip() for happened in events]
    return "\n".join([f"task {whole['id']}", *facts, "", f"its {len(events)} events", *(f"  {line}" for line in lines)])


def as_of_json(found: AsOf) -> dict[str, Any]:
    return {
        "position": found.position, "events": found.events, "time": found.time, "digest": found.digest, "counts": found.counts,
        "workers": [named(worker) for worker in found.workers], "tasks": [named(task) for task in found.tasks],
    }  # fmt: skip


def difference_text(found: Difference, limit: int) -> str:
    """Both points, the events between them, and each change on a line."""
    happened = ", ".join(f"{count:,} {name}" for name, count in sorted(found.by_type.items(), key=lambda item: -item[1]))
    width = max((len(change.id) for change in found.changes[:limit]), default=0)
    lines = [
        *_point_lines("from", found.first),
        *_point_lines("to", found.second),
        f"events    {happened or 'none'}",
        "",
        *(f"  {change.kind:6} {change.id:{width}}  {_change(change)}" for change in found.changes[:limit]),
    ]
    if not found.changes:
        lines.append("  no task and no worker differs")
    elif len(found.changes) > limit:
        lines.append(f"  showing {limit} of {len(found.changes):,}; --limit N for more, --json has all")
    return "\n".join(lines)


def what_if_text(found: WhatIf) -> str:
    """Three columns: history, the same conditions on the virtual clock, and the other ones."""
    columns = (found.was, found.same, found.then)
    rows = [("", "as it was", "simulated", "what if"), *((label, *(_number(show(one)) for one in columns)) for label, show in _MEASURES)]
    lines = [f"{label:22}{was:>14}{same:>14}{then:>14}".rstrip() for label, was, same, then in rows]
    if found.guessed:
        lines.append(f"{found.guessed:,} attempts took the mean of their type, or ended as the task's last one did: history has none like them")
    return "\n".join([*lines, "compare the last two columns: the first has the losses, restarts and round trips that the clock leaves out"])


def exported_text(written: Exported) -> str:
    if not written.entries:
        return f"{written.path}: no entry is in that part of the log"
    return f"{written.path}: {written.entries:,} entries, {written.first} to {written.last}; mloc-console --archive {written.path} shows them"


def again_text(anew: Again, is_dry_run: bool) -> str:
    head = "would be submitted again" if is_dry_run else "submitted again"
    lines = [f"{old} → {new}" for old, new in anew.tasks]
    if is_dry_run:
        lines = [old for old, _ in anew.tasks]
    return "\n".join([f"{head}: {len(lines)} task{'s' if len(lines) > 1 else ''}", *(f"  {line}" for line in lines)])


def again_json(anew: Again, is_dry_run: bool) -> dict[str, Any]:
    return {"ok": True, "dry_run": is_dry_run, "tasks": [{"again_of": old, "task_id": None if is_dry_run else new} for old, new in anew.tasks]}


def _point_lines(label: str, point: Point) -> list[str]:
    return [f"{label:9} #{point.events:,}  {point.position}  {point.time}", f"          {_counts(point.counts)}"]


def _change(change: Change) -> str:
    if change.how == "came":
        return f"new, {change.after}"
    if change.how == "went":
        return f"left the state ({change.before})"
    moved = f"{change.before} → {change.after}" if change.before != change.after else change.after
    others = [name for name in change.fields if name != "phase" and not name.endswith("_ms")]
    return f"{moved}  ({', '.join(others)})" if others else moved


def _number(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def named(value: Task | Worker) -> dict[str, Any]:
    """A state's value with its fields' names (in snapshots they are arrays)."""
    return {name: msgspec.to_builtins(getattr(value, name)) for name in value.__struct_fields__}


def _attention(task: Task) -> tuple[bool, int]:
    return task.phase in FINAL, -task.order


def _fact(name: str, value: Any) -> str:
    if name.endswith("_ms") and isinstance(value, int) and value > 10**11:
        return moment.iso(value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {phase}" for phase, count in sorted(counts.items(), key=lambda item: -item[1])) or "none"


def _workers(workers: list[Worker]) -> str:
    return ", ".join(f"{worker.id} ({worker.phase}{', draining' if worker.draining else ''})" for worker in workers) or "none"


def _time(id: str) -> str:
    return moment.iso(log_ids.time_ms(id)) if log_ids.time_ms(id) else ""
