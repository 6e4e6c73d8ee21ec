"""From the rounds' figures to medians, ranges and ratios, and to the table that docs/benchmarks.md shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from measuring import Spread, spread
from msgspec import Struct


class Row(Struct, frozen=True):
    """One trial of one round."""

    round: int
    figure: str
    contestant: str
    workers: int
    tasks: int
    figures: dict[str, Any]


class Line(Struct, frozen=True):
    """One figure of one contestant over the rounds. Ratios say how many times better it is; None where there is nothing to compare with."""

    figure: str
    contestant: str
    workers: int
    name: str
    spread: Spread
    to_raw: float | None = None
    to_faster_peer: float | None = None
    cpu_us_per_task: dict[str, float] = {}  # medians by process
    foreign_cores: float = 0.0  # median


LESS_IS_BETTER = ("_ms", "_sec")
COMPARED = (
    "one_by_one_per_sec", "in_batches_per_sec", "tasks_per_sec", "tasks_per_free_core", "tasks_per_cpu_sec", "p50_ms", "p99_ms", "all_done_sec",
)  # fmt: skip
TITLES = {
    "one_by_one_per_sec": "submissions/s, one by one", "in_batches_per_sec": "submissions/s, in batches", "tasks_per_sec": "end to end, tasks/s",
    "tasks_per_free_core": "the same for each core that others left free, tasks/s",
    "tasks_per_cpu_sec": "tasks for a second of CPU time, all processes together",
    "trees_late_sec": "trees complete after the last result, s", "p50_ms": "idle latency p50, ms", "p99_ms": "idle latency p99, ms",
    "all_done_sec": "worker killed: all done after, s (ideal 11)", "replayed_per_sec": "replay from the server, events/s",
    "decoded_and_folded_per_sec": "decode and fold, events/s", "yaml_per_sec": "task files read and checked/s, YAML",
    "json_per_sec": "task files read and checked/s, JSON",
}  # fmt: skip


def summary(measured: Sequence[Row], peers: Sequence[str], cores: int) -> list[Line]:
    """A line for each figure, number of workers and contestant."""
    rows = [_with_derived(row, cores) for row in measured]
    medians: dict[tuple[str, int, str], float] = {}
    lines: list[Line] = []
    for name in TITLES:
        for figure, contestant, workers in dict.fromkeys((row.figure, row.contestant, row.workers) for row in rows if name in row.figures):
            same = [row for row in rows if (row.figure, row.contestant, row.workers) == (figure, contestant, workers)]
            found = spread([row.figures[name] for row in same])
            medians[name, workers, contestant] = found.median
            foreign = spread([row.figures.get("foreign_cores", 0.0) for row in same]).median
            cpu = _cpu(row.figures["cpu_us_per_task"] for row in same) if name == "tasks_per_sec" else {}
            lines.append(Line(figure, contestant, workers, name, found, cpu_us_per_task=cpu, foreign_cores=foreign))
    return [_compared(line, medians, peers) for line in sorted(lines, key=lambda line: (list(TITLES).index(line.name), line.workers))]


def _with_derived(row: Row, cores: int) -> Row:
    """On a shared machine one contestant has more of it than another: what each made of its share."""
    if "tasks_per_sec" not in row.figures:
        return row
    figures = row.figures
    free = max(0.1, cores - figures["foreign_cores"])
    per_cpu = 1e6 / sum(figures["cpu_us_per_task"].values())
    derived = {"tasks_per_free_core": figures["tasks_per_sec"] / free, "tasks_per_cpu_sec": per_cpu}
    return Row(row.round, row.figure, row.contestant, row.workers, row.tasks, {**figures, **derived})


def _cpu(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    every = list(found)
    return {name: spread([one.get(name, 0.0) for one in every]).median for name in dict.fromkeys(name for one in every for name in one)}


def _compared(line: Line, medians: Mapping[tuple[str, int, str], float], peers: Sequence[str]) -> Line:
    if line.name not in COMPARED:
        return line
    less = line.name.endswith(LESS_IS_BETTER) and "_per_" not in line.name

    def ratio(other: float | None) -> float | None:
        own = line.spread.median
        return None if not other or not own else round(other / own if less else own / other, 2)

    found = [medians[key] for peer in peers if (key := (line.name, line.workers, peer)) in medians]
    best = (min(found) if less else max(found)) if found else None
    return Line(
        line.figure, line.contestant, line.workers, line.name, line.spread, ratio(medians.get((line.name, line.workers, "raw"))), ratio(best),
        line.cpu_us_per_task, line.foreign_cores,
    )  # fmt: skip


def table(lines: Sequence[Line], machine: Mapping[str, str]) -> str:
    """Markdown. Medians, in brackets the lowest and the highest round."""
    text = ["", "; ".join(f"{name}: {value}" for name, value in machine.items()), ""]
    text += ["| figure | workers | contestant | median [range] | to raw | to the faster peer | others' cores |", "|---|---|---|---|---|---|---|"]
    for line in lines:
        shown = f"{_number(line.spread.median)} [{_number(line.spread.low)}–{_number(line.spread.high)}]"
        text.append(
            f"| {TITLES[line.name]} | {line.workers or '–'} | {line.contestant} | {shown} | {_ratio(line.to_raw)} | {_ratio(line.to_faster_peer)} "
            f"| {line.foreign_cores:.2f} |"
        )
    text += ["", "CPU time a task, µs, by process (trees included):", "", "| contestant | workers | all | of it |", "|---|---|---|---|"]
    for line in lines:
        if line.cpu_us_per_task:
            parts = ", ".join(f"{name} {used:.0f}" for name, used in line.cpu_us_per_task.items())
            text.append(f"| {line.contestant} | {line.workers} | {sum(line.cpu_us_per_task.values()):.0f} | {parts} |")
    return "\n".join(text)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
