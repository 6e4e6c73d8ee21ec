"""What MLOC costs around a library: the same batches through a bare script and through a whole cell, CPU time by process, in alternating pairs.

Both sides are started, and stand side by side; each does a small batch, the library's start included, and another one, warm. Then they do large
batches in turns, the first of each pair in turn: a pair is a few seconds apart, so that a machine which is now faster and now slower is so for
both. After some pairs both are ended and started anew, for where a process lies in memory counts too. CPU time is compared, and not wall time:
others may use the machine. It is read while all processes live, so that none is lost with one that is killed; and of a side only while it has a
batch. Nothing asks the cell anything meanwhile: that a task has ended is seen by its result's tree on disk.

A bare script waits for a line before each batch and prints `answered` after it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
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


class Laps:
    """CPU time of a process and all below it, batch by batch. Processes that come into being count whole."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._before: dict[int, float] = {}
        self._began, self._busy = time.monotonic(), machine_busy_seconds()

    def start(self) -> None:
        """What was used before does not count."""
        self._before = self._now()
        self._began, self._busy = time.monotonic(), machine_busy_seconds()

    def lap(self) -> Lap:
        """Since the start, or from the process's birth where there was none."""
        now, used = self._now(), Counter[str]()
        for pid, seconds in now.items():
            used[_part(pid)] += seconds - self._before.get(pid, 0.0)
        used["ended"] = -sum(seconds for pid, seconds in self._before.items() if pid not in now)  # their whole life is with their parents now
        wall = time.monotonic() - self._began
        foreign = (machine_busy_seconds() - self._busy - sum(used.values())) / max(wall, 1e-6)
        return Lap({part: round(seconds, 2) for part, seconds in used.items() if round(seconds, 2)}, round(wall, 2), round(max(0.0, foreign), 2))

    def _now(self) -> dict[int, float]:
        return {pid: process_seconds(pid) for pid in descendants({"root": self._root})["root"]}


class Bare:
    """A script that does the batches by the library alone; `check` raises where a batch was not done as it should be."""

    def __init__(self, script: str, arguments: Sequence[str], environ: Mapping[str, str], folder: Path, check: Callable[[int], None]) -> None:
        self._script, self._errors = folder / "bare.py", folder / "bare.err"
        self._script.write_text(script)
        self._arguments, self._environ, self._check, self._number = arguments, dict(environ), check, 0
        self._child: subprocess.Popen[bytes] | None = None

    def work(self) -> Lap:
        """Of the next batch; with the first one, of the script's start as well. Raises RuntimeError where the script fails."""
        if self._child is None:
            with self._errors.open("wb") as errors:
                self._child = subprocess.Popen(
                    [sys.executable, str(self._script), *self._arguments], env=self._environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=errors, cwd=self._script.parent,
                )  # fmt: skip
            self._laps = Laps(self._child.pid)
        else:
            self._laps.start()
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(b"\n")
        self._child.stdin.flush()
        if not any(line == b"answered\n" for line in iter(self._child.stdout.readline, b"")):
            raise RuntimeError("the bare script failed: " + self._errors.read_text()[-2000:])
        lap = self._laps.lap()
        self._check(self._number)
        self._number += 1
        return lap

    def conditions(self) -> tuple[int, dict[str, str]]:
        """In how many processes the library runs besides the first, and what decides how it computes."""
        assert self._child is not None
        engines = _engines(self._child.pid)
        return len(engines), _settings(next(iter(engines), self._child.pid))

    def close(self) -> None:
        if self._child is not None:
            self._child.communicate()  # the end of its input ends it


class Ours:
    """A cell that does the batches as tasks; `check` raises where a result is not what it should be."""

    def __init__(self, folder: Path, tasks: Sequence[str], environ: Mapping[str, str], check: Callable[[int, Path], None]) -> None:
        folder.mkdir()
        self._tasks, self._check, self._number = tasks, check, 0
        self._engines: list[int] = []
        self._cell = Cell(folder, 1, environ)
        self._laps = Laps(self._cell.pid)
        self.start_cpu = self._laps.lap().cpu  # seconds before any task

    def work(self) -> Lap:
        """Of the next task, from just before its submission until its result is whole. Raises RuntimeError where it fails, or starts another
        engine."""
        self._laps.start()
        result = _published(self._cell, self._cell.submit(self._tasks[self._number]))
        lap = self._laps.lap()
        engines = _engines(self._cell.pid)
        if self._number and engines != self._engines:
            raise RuntimeError("the engine was started again for a warm task")
        self._engines = engines
        self._check(self._number, result)
        self._number += 1
        return lap

    def conditions(self) -> tuple[int, dict[str, str]]:
        """As of a bare script."""
        return len(self._engines), _settings(next(iter(self._engines), self._cell.pid))

    def close(self) -> None:
        self._cell.close()


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Of either side: what Python needs, and `more`."""
    return {name: text for name, text in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME", "LANG")} | dict(more)


def measure(asked: argparse.Namespace, start_bare: Callable[[int], Bare], start_ours: Callable[[int], Ours], afterwards: int = 0) -> dict[str, Any]:
    """Start both `asked.starts` times, and share the pairs among the starts, as many for each. `afterwards`: tasks that the cell has
    beyond the batches. Raises RuntimeError where the sides differ."""
    starts: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for number in range(asked.starts):
        bare, ours = start_bare(number), start_ours(number)
        try:
            sides = (bare, ours) if number % 2 else (ours, bare)
            first = {_name(side): (side.work(), side.work()) for side in sides}
            if bare.conditions() != ours.conditions():
                raise RuntimeError(f"not the same work: {bare.conditions()} and {ours.conditions()}")
            for _ in range(batches(asked) - 2):
                sides = sides[::-1]
                pairs.append(_pair({_name(side): side.work() for side in sides}))
                print(json.dumps({name: value for name, value in pairs[-1].items() if name not in ("bare", "mloc")}), flush=True)
            more = [to_builtins(ours.work()) for _ in range(afterwards)]
            starts.append({"services_cpu_s": ours.start_cpu, **to_builtins(first), "afterwards": more})
        finally:
            ours.close()
            bare.close()
    return _told(starts, pairs)


def batches(asked: argparse.Namespace) -> int:
    """So many a side does from one start: two small ones and its share of the large ones."""
    return 2 + -(-asked.pairs // asked.starts)


def _name(side: Bare | Ours) -> str:
    return "bare" if isinstance(side, Bare) else "mloc"


def _pair(laps: dict[str, Lap]) -> dict[str, Any]:
    bare, mloc = laps["bare"], laps["mloc"]
    return {
        "percent": _more(mloc.cpu, bare.cpu), "bare_cpu_s": round(bare.cpu, 2), "mloc_cpu_s": round(mloc.cpu, 2),
        "services_cpu_s": round(sum(cpu for part, cpu in mloc.parts.items() if part not in NOT_SERVICES), 2),
        "foreign_cores": max(bare.foreign_cores, mloc.foreign_cores), "bare": to_builtins(bare), "mloc": to_builtins(mloc),
    }  # fmt: skip


def _told(starts: list[dict[str, Any]], pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the pairs: median and range of what MLOC takes more, and what all together come to, with the standard error of that. Of the starts: what
    the first, small batch takes more, and the next."""
    more = [pair["mloc_cpu_s"] - pair["bare_cpu_s"] for pair in pairs]
    bare = sum(pair["bare_cpu_s"] for pair in pairs)
    first, second = ([sum(start["mloc"][lap]["parts"].values()) - sum(start["bare"][lap]["parts"].values()) for start in starts] for lap in (0, 1))
    return {
        "percent": to_builtins(spread([pair["percent"] for pair in pairs])),
        "together_percent": round(sum(more) / bare * 100, 2),
        "standard_error_percent": round(statistics.stdev(more) * len(more) ** 0.5 / bare * 100, 2) if len(more) > 1 else None,
        "cpu_s_by_part": {side: _middle_parts([pair[side]["parts"] for pair in pairs]) for side in ("bare", "mloc")},
        "services_cpu_s": to_builtins(spread([pair["services_cpu_s"] for pair in pairs])),
        "start_more_s": to_builtins(spread(first)), "small_more_s": to_builtins(spread(second)),
        "services_start_s": to_builtins(spread([start["services_cpu_s"] for start in starts])),
        "pairs": pairs, "starts": starts,
    }  # fmt: skip


def finish(result: dict[str, Any], kept: Path, asked: argparse.Namespace) -> None:
    """Print the figures, and keep them where that was asked for."""
    print(json.dumps({name: value for name, value in result.items() if name not in ("pairs", "starts")}, indent=1))
    if asked.write or asked.output:
        (asked.output or kept).write_text(json.dumps(result, indent=1) + "\n")


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Those that both benchmarks take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--starts", type=int, default=3, help="both sides are started so often, each for its share of the pairs")
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
