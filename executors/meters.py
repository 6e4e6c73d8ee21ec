"""What work uses: memory at its highest, energy where NVIDIA's library tells it. Nothing here fails the work."""

from __future__ import annotations

import contextlib
import resource
import sys
from typing import Any


class Meter:
    """Measures from its making on. `devices` are torch's numbers. `computes`: this process does; else others do, and it must not take a part
    of the devices' memory only to ask."""

    def __init__(self, devices: tuple[int, ...], *, computes: bool = True) -> None:
        self._devices = devices if computes else ()
        self._nvml = _nvml_handles(devices)
        self._energy_at_start = self._energy_mj()
        if self._devices:
            import torch

            torch.cuda.init()  # the next call does not do so by itself, and fails before the first tensor
            for device in devices:
                torch.cuda.reset_peak_memory_stats(device)

    def metrics(self) -> dict[str, float]:
        """For the curves; empty on the CPU, where the worker tells of memory."""
        found = {"gpu_memory_peak_gib": round(self._peak_bytes() / (1 << 30), 3)} if self._devices else {}
        return found | self._energy()

    def of_devices(self) -> dict[str, float]:
        """For the result: `gpu_memory_peak_bytes` and `energy_joules`, where there are any."""
        return ({"gpu_memory_peak_bytes": float(self._peak_bytes())} if self._devices else {}) | self._energy()

    def totals(self) -> dict[str, float]:
        """For the result: `memory_peak_bytes` of this process beside those of its devices."""
        unit = 1 if sys.platform == "darwin" else 1024
        found: dict[str, float] = {"memory_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
        return found | self.of_devices()

    def _energy(self) -> dict[str, float]:
        joules = self._joules()
        return {} if joules is None else {"energy_joules": joules}

    def _peak_bytes(self) -> int:
        import torch

        return max(torch.cuda.max_memory_allocated(device) for device in self._devices)

    def _joules(self) -> float | None:
        now = self._energy_mj()
        return None if now is None or self._energy_at_start is None else round((now - self._energy_at_start) / 1000, 1)

    def _energy_mj(self) -> float | None:
        if not self._nvml:
            return None
        import pynvml

        with contextlib.suppress(pynvml.NVMLError):  # devices older than Volta do not count it
            return float(sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._nvml))
        return None


def computes_here() -> bool:
    """Whether this process has something on a device; to ask puts nothing there."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _nvml_handles(devices: tuple[int, ...]) -> list[Any]:
    """NVML's handles of torch's devices, whose numbers differ from NVML's, as torch itself finds them: without starting CUDA. Empty where NVML is
    not installed."""
    if not devices:
        return []
    try:
        import torch

        return [torch.cuda._get_pynvml_handler(device) for device in devices]
    except Exception:  # it is optional, and its library may be of another version than the driver
        return []
