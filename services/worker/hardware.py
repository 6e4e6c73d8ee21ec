"""What this machine, or this container, has and uses: cores, memory, GPUs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import structlog

from mloc.core.events import Device, Hardware
from mloc.services.worker.torch_build import how_to_get_cuda, version_without_cuda

MIB = 1024 * 1024
GPU_SAMPLE_SEC = 5.0

_log = structlog.get_logger("worker")


class Usage(NamedTuple):
    """`cpu_percent` of all cores together."""

    cpu_percent: float = 0.0
    memory_bytes: int = 0
    device_percent: tuple[float, ...] = ()
    device_memory: tuple[int, ...] = ()


def measure_hardware(environ: Mapping[str, str]) -> Hardware:
    """Cores and memory as the container's limits give them; the GPUs that CUDA_VISIBLE_DEVICES leaves, none where torch was built without CUDA."""
    return Hardware(socket.gethostname(), _cpus(), _memory(), _devices(environ.get("CUDA_VISIBLE_DEVICES")))


class UsageSampler:
    """What is used now. GPUs are asked on a thread of their own, because that takes long."""

    def __init__(self, devices: tuple[Device, ...]) -> None:
        self._before = _cpu_times()
        self._gpus: tuple[tuple[float, ...], tuple[int, ...]] = ((), ())
        if devices:
            indexes = {device.index for device in devices}
            threading.Thread(target=self._watch_gpus, args=(indexes,), name="gpu-usage", daemon=True).start()

    def sample(self) -> Usage:
        busy, total = _cpu_times()
        busy_before, total_before = self._before
        self._before = busy, total
        share = (busy - busy_before) / (total - total_before) if total > total_before else 0.0
        return Usage(round(100 * share, 1), _memory_used(), *self._gpus)

    def _watch_gpus(self, indexes: set[int]) -> None:
        pause = threading.Event()
        while True:
            rows = [row for row in _nvidia_smi("index,utilization.gpu,memory.used") if int(row[0]) in indexes]
            self._gpus = tuple(_number(row[1]) for row in rows), tuple(int(_number(row[2]) * MIB) for row in rows)
            pause.wait(GPU_SAMPLE_SEC)


def _cpus() -> float:
    present = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _read("/sys/fs/cgroup/cpu.max").split()
    if len(limit) == 2 and limit[0] != "max":
        return min(float(present), int(limit[0]) / int(limit[1]))
    return float(present)


def _memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (_read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])


def _memory_used() -> int:
    """Of the container where it has a limit, else of the machine; 0 where neither can be told."""
    if _read("/sys/fs/cgroup/memory.max").isdigit() and (current := _read("/sys/fs/cgroup/memory.current")).isdigit():
        return int(current)
    found = {line.split(":")[0]: line.split()[1] for line in _read("/proc/meminfo").splitlines()}
    return (int(found["MemTotal"]) - int(found["MemAvailable"])) * 1024 if "MemAvailable" in found else 0


def _cpu_times() -> tuple[float, float]:
    """Busy and all time of all cores, in ticks since the machine started; (0, 0) where there is no /proc."""
    fields = [float(text) for text in _read("/proc/stat").partition("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4], sum(fields)) if len(fields) > 4 else (0.0, 0.0)


def _devices(visible: str | None) -> tuple[Device, ...]:
    allowed = None if visible is None else {part.strip() for part in visible.split(",")}
    rows = _nvidia_smi("index,name,memory.total,uuid")
    if rows and (version := version_without_cuda()):
        _log.warning("no GPU is offered: torch is built without CUDA", torch=version, remedy=how_to_get_cuda(version))
        return ()
    return tuple(
        Device(int(index), name, int(_number(memory) * MIB))
        for index, name, memory, uuid in rows
        if allowed is None or index in allowed or uuid in allowed
    )


def _nvidia_smi(query: str) -> list[list[str]]:
    """Rows of nvidia-smi's answer; none where there is no NVIDIA driver."""
    if sys.platform == "darwin" or shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [[field.strip() for field in line.split(",")] for line in answer.splitlines() if line.count(",") == query.count(",")]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # "[N/A]"
        return 0.0


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
