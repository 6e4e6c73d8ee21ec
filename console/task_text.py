"""What a task's page says, as lines: overview, history, spec, log, result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

import msgspec
import yaml

from mloc.console import braille
from mloc.console.line_view import Line
from mloc.console.phases import BAD, DIM, GREEN, SKY, TASK
from mloc.console.quantities_shown import clock, day_and_clock, duration
from mloc.console.view import View
from mloc.core import event_line, explain, log_ids
from mloc.core.events import Event
from mloc.core.task import FINAL, Task, rows_done
from mloc.services.intake.views import callback_view, told
from mloc.services.log.event_log import TelemetryPoint

CURVE_HEIGHT = 5
MOST_CHILDREN = 24
MOST_WORKERS = 20
PENDING = frozenset({"waiting", "ready", "backoff", "lost", "failed", "orphaned", "dead_lettered"})
MOST_RESULT_BYTES = 256 * 1024
PREFERRED = ("loss", "reward", "rewards", "eval_loss", "tokens_per_sec")
_BOLD, _TITLE = "bold", f"bold {SKY}"

History = Sequence[tuple[str, Event]]
Telemetry = Sequence[tuple[str, TelemetryPoint]]


def overview(view: View, task: Task, history: History, telemetry: Telemetry, width: int) -> list[Line]:
    look = TASK[task.phase]
    lines: list[Line] = [
        [(f"{look.glyph} {look.word}", look.style), (f"  {task.id}", _BOLD), (f"  for {duration(view.now_ms - task.since_ms)}", DIM)],
        *([[(f"  {task.reason}", BAD if task.error else "")]] if task.reason else []),
        [],
        *_facts(task, width),
    ]
    lines += [[("  told       ", DIM), (told(callback_view(one)), BAD if one.error else "")] for one in task.callbacks]
    if task.phase in PENDING:
        lines += _why_pending(view, task)
    if task.children:
        lines += _children(view, task)
    lines += curves(telemetry, width)
    lines += [[], [("last events", _TITLE)], *(event_lines(task.id, history[-6:]) or [[("  none read yet", DIM)]])]
    said = [point for _, point in telemetry if point.line]
    if said:
        lines += [[], [("last of its log", _TITLE)], *([(f"  {point.line}", "")] for point in said[-4:])]
    return lines


def _facts(task: Task, width: int) -> list[Line]:
    shard = f"{task.shard[0] + 1} of {task.shard[1]}" if task.shard else ""
    facts = [
        ("type", task.task_type or "pipeline"), ("kind", task.kind), ("name", task.name if task.name != task.id else ""), ("owner", task.owner),
        ("project", task.project), ("priority", str(task.priority)), ("pipeline", task.parent), ("stage", task.stage), ("shard", shard),
        ("worker", task.worker), ("attempts", f"{task.tries}" if task.tries else ""),
        ("failures", f"{task.failures} of at most {task.max_attempts}" if task.failures else ""),
        ("rows", f"{rows_done(task):,}" + (f" of {task.items:,}" if task.items else "") if task.rows else ""),
        ("checkpoint", f"step {task.checkpoint_step}" if task.checkpoint else ""), ("submitted", clock(task.submitted_ms)),
        ("started", clock(task.started_ms) if task.started_ms else ""), ("ended", clock(task.ended_ms) if task.ended_ms else ""),
        ("ran", duration(task.ended_ms - task.started_ms) if task.ended_ms and task.started_ms else ""),
        ("labels", ", ".join(f"{key}={value}" for key, value in task.labels.items())),
        ("waits for", ", ".join(id.removeprefix(f"{task.parent}.") for id in task.depends_on)),
    ]  # fmt: skip
    known = [(name, value) for name, value in facts if value]
    across = max(1, width // 38)
    cell = width // across
    rows: list[list[tuple[str, str]]] = []
    taken = across
    for name, value in known:
        needed = min(across, -(-(len(value) + 14) // cell))  # cells that this fact takes
        if taken + needed > across:
            rows.append([])
            taken = 0
        taken += needed
        rows[-1] += [(f"  {name:11}", DIM), (value.ljust(cell * needed - 13), "")]
    return list(rows)


def _why_pending(view: View, task: Task) -> list[Line]:
    found = explain.explain(view.cluster, task)
    lines: list[Line] = [[], [("why it does not run: ", _TITLE), (found.summary, "")]]
    if task.phase == "backoff":
        lines.append([(f"  again in {duration(task.not_before_ms - view.now_ms)}", "")])
    lines += [[("  ✓ " if verdict.fits else "  ✗ ", GREEN if verdict.fits else BAD), (f"{verdict.worker}  ", ""), (verdict.why, DIM)]
              for verdict in found.workers[:MOST_WORKERS]]  # fmt: skip
    if len(found.workers) > MOST_WORKERS:
        lines.append([(f"  showing {MOST_WORKERS} of {len(found.workers)} workers", DIM)])
    return lines


def _children(view: View, task: Task) -> list[Line]:
    lines: list[Line] = [[], [(f"{'shards' if task.task_type else 'stages'}: {task.done} of {len(task.children)} published", _TITLE)]]
    for id in task.children[:MOST_CHILDREN]:
        child = view.cluster.tasks.get(id)
        if child is None:
            lines.append([(f"  {id}", DIM)])
            continue
        look = TASK[child.phase]
        took = duration((child.ended_ms or view.now_ms) - child.started_ms) if child.started_ms else ""
        lines.append([(f"  {look.glyph} {look.word:12}", look.style), (f"{id}  ", ""), (f"{took}  {child.worker}", DIM)])
    if len(task.children) > MOST_CHILDREN:
        lines.append([(f"  showing {MOST_CHILDREN} of {len(task.children)}", DIM)])
    return lines


def curves(telemetry: Telemetry, width: int) -> list[Line]:
    """The loss (or the reward, or what there is), as the worker told it step by step."""
    named = [name for _, point in telemetry for name in point.metrics]
    if not named:
        return []
    metric = next((name for name in PREFERRED if name in named), named[0])
    points = [(point.step, point.total_steps, point.metrics[metric]) for _, point in telemetry if metric in point.metrics]
    values = [value for _, _, value in points]
    finite = [value for value in values if math.isfinite(value)] or [math.nan]
    step, total, last = points[-1]
    rates = [point.metrics["tokens_per_sec"] for _, point in telemetry if "tokens_per_sec" in point.metrics]
    facts = f"  {last:.4g}  at step {step}" + (f" of {total}" if total else "") + (f"  {rates[-1]:,.0f} tokens/s" if rates else "")
    canvas = braille.curve(values, max(10, min(width - 14, 100)), CURVE_HEIGHT)
    edge = [f"{max(finite):10.4g} ", *[" " * 11] * (CURVE_HEIGHT - 2), f"{min(finite):10.4g} "]
    return [[], [(metric, _TITLE), (facts, "")], *([(left, DIM), (row, GREEN)] for left, row in zip(edge, canvas, strict=True))]


def event_lines(task: str, history: History) -> list[Line]:
    """A line an event; those of the task's parts name the part."""
    lines: list[Line] = []
    for id, event in history:
        name, about = type(event).__name__, event_line.task_of(event)
        part = f"{about.removeprefix(task)[1:]}: " if about != task else ""
        style = BAD if name in event_line.FAILURES else _BOLD
        lines.append([(f"  {clock(log_ids.time_ms(id))} ", DIM), (f"{name:19} ", style), (part, SKY), (event_line.describe(event), "")])
    return lines


def history_text(task: str, history: History, share: float) -> list[Line]:
    head: list[Line] = [[(f"{len(history):,} events of this task" + ("" if share >= 1 else f"; reading the log, {share:.0%}"), _TITLE)]]
    lines: list[Line] = []
    day = ""
    for id, event in history:
        today = day_and_clock(log_ids.time_ms(id))[:10]
        if today != day:
            lines.append([(f"  {today}", DIM)])
            day = today
        lines += event_lines(task, [(id, event)])
    return head + lines


def spec_text(spec: bytes, digest: str) -> list[Line]:
    """JSON of a spec as YAML."""
    if not spec:
        return [[("a pipeline has no spec of its own; open one of its stages" if not digest else "the spec was not read yet", DIM)]]
    text = yaml.safe_dump(msgspec.json.decode(spec), sort_keys=False, allow_unicode=True, width=100)
    return [[(f"# sha256 {digest}", DIM)], *(_yaml_line(line) for line in text.splitlines())]


def _yaml_line(line: str) -> Line:
    key, colon, value = line.partition(":")
    return [(key, SKY), (colon, DIM), (value, "")] if colon and '"' not in key else [(line, "")]


def log_text(telemetry: Telemetry, kept: bytes | None) -> list[Line]:
    """Log lines as they came; `kept` is the log file of a task that ended, where its telemetry is gone."""
    lines: list[Line] = []
    speaks = any(point.line for _, point in telemetry)
    for id, point in telemetry:
        if point.dropped:
            lines.append([(f"dropped {point.dropped} lines here", BAD)])
        if point.line:
            lines.append([(f"{clock(log_ids.time_ms(id))} ", DIM), (point.line, "")])
        elif point.metrics and not speaks:  # who writes lines writes the metrics into them
            shown = "  ".join(f"{name} {value:.4g}" for name, value in point.metrics.items())
            lines.append([(f"{clock(log_ids.time_ms(id))} ", DIM), (f"step {point.step}  ", SKY), (shown, "")])
    if not lines and kept:
        lines = [[(line, "")] for line in kept.decode(errors="replace").splitlines()]
    return lines or [[("no log lines yet", DIM)]]


def result_text(task: Task, result: bytes | None) -> list[Line]:
    if task.phase not in FINAL and task.phase != "succeeded":
        return [[("the task has no result yet", DIM)]]
    if result is None:
        where = "its file cannot be read from here (RESULTS_DIR)" if task.phase == "published" else f"it ended as {TASK[task.phase].word}"
        return [[(f"no result to show: {where}", DIM)]]
    try:
        text = msgspec.json.format(result[: MOST_RESULT_BYTES + 1] if len(result) <= MOST_RESULT_BYTES else result, indent=2).decode()
    except msgspec.DecodeError:
        text = result.decode(errors="replace")
    lines: list[Line] = [[(line, "")] for line in islice(text[:MOST_RESULT_BYTES].splitlines(), 20_000)]
    if len(text) > MOST_RESULT_BYTES:
        lines.insert(0, [(f"showing the first {MOST_RESULT_BYTES // 1024} KiB of {len(text) // 1024} KiB", DIM)])
    return lines
