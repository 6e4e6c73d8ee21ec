"""What a worker measures of its machine."""

import os
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mloc.core.events import Device
from mloc.services import doctor
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
    install_torch(tmp_path, monkeypatch, "2.13.0", "'13.0'")


def install_torch(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, cuda: str) -> None:
    """A torch whose files say what a build says of itself, and that fails where it is imported."""
    package = folder / "installed" / "torch"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("raise RuntimeError('it was imported')")
    (package / "version.py").write_text(f"__version__ = '{version}'\ndebug = False\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = None\n")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(str(package.parent))


@pytest.mark.parametrize(("visible", "indexes"), [(None, [0, 1]), ("1", [1]), ("GPU-aaa", [0]), ("", [])])
def test_gpus_are_those_that_cuda_visible_devices_leaves(with_gpus: None, visible: str | None, indexes: list[int]) -> None:
    devices = measure_hardware({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}).devices
    assert [device.index for device in devices] == indexes
    if visible is None:
        assert devices[1] == Device(1, "NVIDIA B", 80 * 2**30)


def test_a_gpu_that_torch_was_not_built_for_is_not_offered_and_the_log_and_the_doctor_say_why(
    with_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor._torch_build() == []
    install_torch(tmp_path, monkeypatch, "2.13.0+cpu", "None")
    with capture_logs() as logs:
        assert measure_hardware({}).devices == ()
    assert [log["torch"] for log in logs] == ["2.13.0+cpu"]
    (finding,) = doctor._torch_build()
    assert (finding.status, finding.detail) == ("warning", "torch 2.13.0+cpu is built without CUDA: a worker here offers no GPU")
    assert finding.remedy.endswith("pip install torch==2.13.0")


def test_where_no_torch_is_installed_gpus_are_offered_to_plug_ins(with_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert len(measure_hardware({}).devices) == 2
