"""What work measures of devices that are not here: torch's calls are taken down in their order."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest


@pytest.mark.models
def test_the_highest_memory_is_counted_from_the_start_also_where_nothing_was_on_the_device_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mloc.executors import meters

    is_up: list[bool] = []

    def reset(device: int) -> None:
        if not is_up:
            raise RuntimeError("Invalid device argument 0: did you call init?")  # as torch says

    monkeypatch.setattr(meters, "_nvml_handles", lambda devices: [])
    monkeypatch.setattr(torch.cuda, "init", lambda: is_up.append(True))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: (device + 1) << 30)
    assert meters.Meter((0, 1)).metrics() == {"gpu_memory_peak_gib": 2.0}


@pytest.mark.models
def test_energy_is_measured_without_a_part_of_the_device_where_others_compute_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mloc.executors import meters

    told = iter([5_000, 12_500, 20_000])  # millijoules
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=OSError, nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(told)))
    monkeypatch.setattr(torch.cuda, "_get_pynvml_handler", lambda device: f"device {device}")
    meter = meters.Meter((0,), computes=meters.computes_here())  # which would start CUDA otherwise, and fail here
    assert meter.of_devices() == {"energy_joules": 7.5}
    assert meter.metrics() == {"energy_joules": 15.0}
    assert meters.Meter(()).of_devices() == {}
