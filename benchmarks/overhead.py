"""What MLOC costs around a library: the same batches through a bare script and through a whole cell, CPU time by process, in alternating pairs.

Each side runs in fresh processes and does the same three batches one after the other: `start`, a small one, the library's start included; `small`,
another of that size, warm; and `large`. What a batch costs whatever its size, and what each further unit (row, step) costs, follow from the last
two. CPU time is compared, and not wall time: others may use the machine. It is read while all processes live, so that none is lost with one that
is killed. Nothing asks the cell anything meanwhile: that a task has ended is seen by its result's tree on disk.

A bare script prints `answered` after each batch and then waits for a line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import descendants, machine_busy_seconds, process_seconds, spread
from msgspec import Struct, to_builtins
from rows import Cell, kind_of

LAPS = ("start", "small", "large")
LOOK_SEC = 0.05
DECISIVE = ("OMP_", "MKL_", "KMP_", "VLLM_", "TORCH", "LD_PRELOAD", "MALLOC_")  # in the names of variables
NOT_SERVICES = ("host", "engine")  # the processes that do the work, and would do it without MLOC


class Lap(Struct, frozen=True):
    """A batch: CPU seconds by kind of process, seconds by the clock, and cores that anything else kept busy."""

    parts: dict[str, float]
    seconds: float
    foreign_cores: float

    @property
    def cpu(self) -> float:
        return sum(self.parts.values())


class Side(Struct, frozen=True):
    """What one side used. `settings`: the environment that decides how the library computes. `services_start`: CPU seconds before any task."""

    laps: tuple[Lap, ...]
    processes: int
    settings: dict[str, str]
    services_start: float = 0.0


class Laps:
    """CPU time of a process and all below it, batch by batch. Processes that come into being count whole."""

    def __init__(self, root: int, count_from_birth: bool) -> None:
        self._root = root
        self._before: dict[int, float] = {} if count_from_birth else self._now()
        self._start_clock()

    def lap(self) -> Lap:
        """Since the last one."""
        now, used = self._now(), Counter[str]()
        for pid, seconds in now.items():
            used[_part(pid)] += seconds - self._before.get(pid, 0.0)
        used["ended"] = -sum(seconds for pid, seconds in self._before.items() if pid not in now)  # their whole life is with their parents now
        wall = time.monotonic() - self._began
        foreign = (machine_busy_seconds() - self._busy - sum(used.values())) / max(wall, 1e-6)
        self._before = now
        self._start_clock()
        return Lap({part: round(seconds, 2) for part, seconds in used.items() if round(seconds, 2)}, round(wall, 2), round(max(0.0, foreign), 2))

    def _start_clock(self) -> None:
        self._began, self._busy = time.monotonic(), machine_busy_seconds()

    def _now(self) -> dict[int, float]:
        return {pid: process_seconds(pid) for pid in descendants({"root": self._root})["root"]}


def bare(script: str, arguments: Sequence[str], environ: Mapping[str, str], folder: Path) -> Side:
    """Run the script through all batches. Raises RuntimeError where it fails."""
    (folder / "bare.py").write_text(script)
    with (
        (folder / "bare.err").open("wb") as errors,
        subprocess.Popen([sys.executable, str(folder / "bare.py"), *arguments], env=dict(environ), stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=errors, cwd=folder) as child,
    ):  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        laps, taken = Laps(child.pid, count_from_birth=True), []
        for _ in LAPS:
            if not any(line == b"answered\n" for line in iter(child.stdout.readline, b"")):
                raise RuntimeError("the bare script failed: " + (folder / "bare.err").read_text()[-2000:])
            taken.append(laps.lap())
            if len(taken) == len(LAPS):
                engines = _engines(child.pid)
                settings = _settings(next(iter(engines), child.pid))
            child.stdin.write(b"\n")
            child.stdin.flush()
    return Side(tuple(taken), len(engines), settings)


def within_mloc(folder: Path, tasks: Sequence[str], environ: Mapping[str, str]) -> tuple[Side, list[Path]]:
    """Run the tasks in a new cell, one for each batch and then any others; and where their results lie. Counted from just before a submission
    until its result is whole. Raises RuntimeError where a task fails, or starts another engine."""
    folder.mkdir()
    cell = Cell(folder, 1, environ)
    try:
        services_start = Laps(cell.pid, count_from_birth=True).lap().cpu
        laps, taken, results = Laps(cell.pid, count_from_birth=False), [], []
        for number, task in enumerate(tasks):
            results.append(_published(cell, cell.submit(task)))
            taken.append(laps.lap())
            if number == 0:
                engines = _engines(cell.pid)
            elif _engines(cell.pid) != engines:
                raise RuntimeError("the engine was started again for a warm task")
        settings = _settings(next(iter(engines), cell.pid))
        return Side(tuple(taken), len(engines), settings, round(services_start, 2)), results
    finally:
        cell.close()


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Of either side: what Python needs, and `more`."""
    return {name: text for name, text in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME", "LANG")} | dict(more)


def measure_pairs(pairs: int, units: tuple[int, int], run_bare: Callable[[], Side], run_ours: Callable[[int], Side]) -> list[dict[str, Any]]:
    """Alternating pairs, the first of each in turn. `units`: of the small and of the large batch. Raises RuntimeError where the sides differ."""
    measured = []
    for number in range(pairs):
        first = run_bare() if number % 2 == 0 else None
        ours = run_ours(number)
        other = first or run_bare()
        if (other.processes, other.settings) != (ours.processes, ours.settings):
            raise RuntimeError(f"not the same work: {other.processes} processes with {other.settings}, and {ours.processes} with {ours.settings}")
        measured.append(_compared(other, ours, units))
        print(json.dumps({name: value for name, value in measured[-1].items() if name not in ("bare", "mloc")}), flush=True)
    return measured


def _compared(other: Side, ours: Side, units: tuple[int, int]) -> dict[str, Any]:
    plain, mloc = ([lap.cpu for lap in side.laps[: len(LAPS)]] for side in (other, ours))
    small, large = units
    each = [(costs[2] - costs[1]) / (large - small) for costs in (plain, mloc)]
    return {
        "whole_percent": _more(sum(mloc), sum(plain)),
        "warm_percent": _more(mloc[2], plain[2]),
        "marginal_percent": _more(each[1], each[0]),
        "bare_cpu_s": [round(cpu, 2) for cpu in plain], "mloc_cpu_s": [round(cpu, 2) for cpu in mloc],
        "start_more_s": round(mloc[0] - plain[0], 2),
        "small_more_s": round(mloc[1] - plain[1], 2),
        "services_start_s": ours.services_start,
        "services_large_s": round(sum(cpu for part, cpu in ours.laps[2].parts.items() if part not in NOT_SERVICES), 2),
        "foreign_cores": [max(lap.foreign_cores for lap in side.laps) for side in (other, ours)],
        "bare": to_builtins(other.laps), "mloc": to_builtins(ours.laps),
    }  # fmt: skip


def told(pairs: list[dict[str, Any]], conditions: dict[str, Any]) -> dict[str, Any]:
    """Medians and ranges over the pairs, the parts of the large batch among them; and what all pairs together come to."""
    figures = {
        name: to_builtins(spread([pair[name] for pair in pairs]))
        for name in ("whole_percent", "warm_percent", "marginal_percent", "start_more_s", "small_more_s", "services_start_s", "services_large_s")
    }
    parts = {side: _middle_parts([pair[side][2]["parts"] for pair in pairs]) for side in ("bare", "mloc")}
    bare, mloc = ([sum(laps) for laps in zip(*(pair[side] for pair in pairs), strict=True)] for side in ("bare_cpu_s", "mloc_cpu_s"))
    together = {"whole_percent": _more(sum(mloc), sum(bare)), "warm_percent": _more(mloc[2], bare[2]),
                "marginal_percent": _more(mloc[2] - mloc[1], bare[2] - bare[1])}  # fmt: skip
    return {**conditions, **figures, "together": together, "large_cpu_s_by_part": parts, "pairs": pairs}


def finish(result: dict[str, Any], kept: Path, asked: argparse.Namespace) -> None:
    """Print the figures, and keep them where that was asked for."""
    print(json.dumps({name: value for name, value in result.items() if name != "pairs"}, indent=1))
    if asked.write or asked.output:
        (asked.output or kept).write_text(json.dumps(result, indent=1) + "\n")


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Those that both benchmarks take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="keep the figures below benchmarks/results")
    parser.add_argument("--output", type=Path, help="keep them in this file instead")
    parser.add_argument("--quick", action="store_true", help="one pair of small batches: shows that it runs, the figures mean little")
    return parser


def _middle_parts(laps: list[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for lap in laps for name in lap})
    return {name: spread([lap.get(name, 0.0) for lap in laps]).median for name in names}


def _more(ours: float, plain: float) -> float:
    return round((ours / plain - 1) * 100, 2)


def _published(cell: Cell, id: str) -> Path:
    """Raises RuntimeError where the task failed, or the cell ended."""
    folder = cell.results / id
    cell.until((folder / "manifest.json").exists, LOOK_SEC)
    result = folder / "responses.json"
    if not json.loads((folder / "manifest.json").read_text())["ok"]:
        raise RuntimeError(f"the task failed: {result.read_text()[:2000]}")
    return result


def _part(pid: int) -> str:
    try:
        kind = kind_of(pid)
    except OSError:
        return "ended"
    return "engine" if kind.startswith("VLLM::") else kind


def _engines(root: int) -> list[int]:
    """The processes of vLLM below that one."""
    return [pid for pid in descendants({"root": root})["root"] if _part(pid) == "engine"]


def _settings(pid: int) -> dict[str, str]:
    """What the process was started with that decides how a library computes, and on how many threads."""
    try:
        said = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    pairs = dict(entry.split("=", 1) for entry in said.split("\0") if "=" in entry)
    return {name: text for name, text in sorted(pairs.items()) if name.startswith(DECISIVE)}
