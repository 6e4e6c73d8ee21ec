"""What a training uses: memory at its highest, energy where NVIDIA's library tells it. Nothing here fails a training."""

from __future__ import annotations

import contextlib
import resource
import sys
from typing import Any


class Meter:
    """Measures from its making on. `devices` are torch's numbers."""

    def __init__(self, devices: tuple[int, ...]) -> None:
        self._devices = devices
        self._nvml = _nvml_handles(devices)
        self._energy_at_start = self._energy_mj()
        if devices:
            import torch

            torch.cuda.init()  # the next call does not do so by itself, and fails before the first tensor
            for device in devices:
                torch.cuda.reset_peak_memory_stats(device)

    def metrics(self) -> dict[str, float]:
        """For the curves; empty on the CPU, where the worker tells of memory."""
        if not self._devices:
            return {}
        found = {"gpu_memory_peak_gib": round(self._peak_bytes() / (1 << 30), 3)}
        if (joules := self._joules()) is not None:
            found["energy_joules"] = joules
        return found

    def totals(self) -> dict[str, float]:
        """For the result: `memory_peak_bytes` of this process, and of the devices with `energy_joules` where there are any."""
        unit = 1 if sys.platform == "darwin" else 1024
        found: dict[str, float] = {"memory_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
        if self._devices:
            found["gpu_memory_peak_bytes"] = self._peak_bytes()
        if (joules := self._joules()) is not None:
            found["energy_joules"] = joules
        return found

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


def _nvml_handles(devices: tuple[int, ...]) -> list[Any]:
    """NVML's handles of torch's devices, found by their identity: the numbers of the two differ. Empty where it is not installed."""
    if not devices:
        return []
    try:
        import pynvml
        import torch

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}") for device in devices]
    except Exception:  # it is optional, and its library may be of another version than the driver
        return []
