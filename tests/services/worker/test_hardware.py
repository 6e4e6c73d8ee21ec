"""What a worker measures of its machine."""

import os
from pathlib import Path

import pytest

from mloc.core.events import Device
from mloc.services.worker.hardware import UsageSampler, measure_hardware


def test_the_machine_has_cores_and_memory() -> None:
    hardware = measure_hardware({})
    assert 0 < hardware.cpus <= (os.cpu_count() or 1)
    assert hardware.memory > 64 * 2**20
    assert hardware.hostname


def test_usage_is_a_share_of_all_cores() -> None:
    sampler = UsageSampler(())
    sum(range(2_000_000))
    assert 0 <= sampler.sample().cpu_percent <= 100


@pytest.fixture
def with_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nvidia-smi that knows two GPUs."""
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho '0, NVIDIA A, 24576, GPU-aaa'\necho '1, NVIDIA B, 81920, GPU-bbb'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.parametrize(("visible", "indexes"), [(None, [0, 1]), ("1", [1]), ("GPU-aaa", [0]), ("", [])])
def test_gpus_are_those_that_cuda_visible_devices_leaves(with_gpus: None, visible: str | None, indexes: list[int]) -> None:
    devices = measure_hardware({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}).devices
    assert [device.index for device in devices] == indexes
    if visible is None:
        assert devices[1] == Device(1, "NVIDIA B", 80 * 2**30)
