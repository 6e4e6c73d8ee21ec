"""What a trial measures with: CPU time of processes and their children, CPU time that others used meanwhile, peaks of memory, medians and ranges."""

from __future__ import annotations

import os
import socket
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

TICKS = os.sysconf("SC_CLK_TCK")


class Spread(Struct, frozen=True):
    """A figure over the rounds of a run."""

    median: float
    low: float
    high: float
    rounds: int


def spread(values: Sequence[float]) -> Spread:
    return Spread(round(statistics.median(values), 3), round(min(values), 3), round(max(values), 3), len(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def peak_mib(pid: int) -> float:
    """The most main memory that the process had (VmHWM); 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return 0.0
    return next((round(int(line.split()[1]) / 1024, 1) for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes, and of their children that have ended; those that are gone count nothing."""
    return sum(process_seconds(pid) for pid in pids)


def descendants(roots: Mapping[str, int]) -> dict[str, list[int]]:
    """Each name's process and everything that it started and that still runs."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent_of(int(entry.name))) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found: dict[str, list[int]] = {}
    for name, root in roots.items():
        waiting, found[name] = [root], []
        while waiting:
            pid = waiting.pop()
            found[name].append(pid)
            waiting += children.get(pid, [])
    return found


class CpuMeter:
    """CPU time by name from `start` on, and how many cores others kept busy meanwhile."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        """`roots`: name → the process whose whole tree counts. This process counts as `client`, without its children."""
        self._roots = dict(roots)
        self._before = self._by_name()
        self._busy_before = machine_busy_seconds()
        self._wall_before = _uptime()

    def used(self) -> dict[str, float]:
        """Seconds by name since the start; a tree that was killed since counts what is left of it."""
        now = self._by_name()
        return {name: round(max(0.0, now[name] - self._before.get(name, 0.0)), 4) for name in now}

    def foreign_cores(self) -> float:
        """Cores that were busy with anything else, on average."""
        wall = _uptime() - self._wall_before
        ours = sum(self.used().values())
        return round(max(0.0, machine_busy_seconds() - self._busy_before - ours) / wall, 2) if wall > 0 else 0.0

    def _by_name(self) -> dict[str, float]:
        times = {name: cpu_seconds(pids) for name, pids in descendants(self._roots).items()}
        own = os.times()
        return {**times, "client": own.user + own.system}


def machine_busy_seconds() -> float:
    """CPU time that all processes of the machine have used since it started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / TICKS


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def process_seconds(pid: int) -> float:
    """User and system time, with that of its children that have ended; 0 where it is gone."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / TICKS if fields else 0.0  # utime, stime, cutime, cstime


def _parent_of(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def _stat(pid: int) -> list[str]:
    """The fields after the command's name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
