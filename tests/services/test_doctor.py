"""The doctor's words about a server, a folder and what is not installed."""

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from mloc.services import doctor
from mloc.services.doctor import Finding, shown
from mloc.services.mirror.mirror import MirrorState, state_path
from mloc.services.server.binary import server_binary
from mloc.services.server.record import answers
from mloc.services.settings import Settings


@pytest.fixture(scope="module")
def foreign_server() -> Iterator[str]:
    """A server as a distribution sets it up: no append-only file, nothing known to `mloc up`."""
    with tempfile.TemporaryDirectory(prefix="md", dir="/tmp") as folder:
        command = [server_binary(), "--port", "0", "--unixsocket", f"{folder}/s", "--dir", folder, "--save", ""]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        url, deadline = f"unix://{folder}/s", time.monotonic() + 20
        while not answers(Path(f"{folder}/s")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield url
        child.kill()  # it refuses to end by SIGTERM while it writes its first append-only file
        child.wait()


async def findings(url: str, **config: str) -> dict[str, Finding]:
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        for name, value in config.items():
            client.config_set(name.replace("_", "-"), value)
    return {finding.name: finding for finding in await doctor._event_log(Settings(redis_url=url))}


async def test_a_server_that_may_evict_events_is_an_error(foreign_server: str) -> None:
    found = await findings(foreign_server, maxmemory_policy="allkeys-lru")
    assert found["eviction"].status == "error"
    assert found["eviction"].remedy.startswith("CONFIG SET maxmemory-policy noeviction")


async def test_a_server_without_an_append_only_file_loses_the_log_at_a_restart(foreign_server: str) -> None:
    found = await findings(foreign_server, maxmemory_policy="noeviction", appendonly="no")
    assert set(found) == {"server", "durability"}
    assert found["durability"].status == "warning"
    assert "a restart of the server loses the event log" in found["durability"].detail


async def test_a_server_that_syncs_each_second_can_lose_acknowledged_work(foreign_server: str) -> None:
    found = await findings(foreign_server, maxmemory_policy="noeviction", appendonly="yes", appendfsync="everysec")
    assert found["durability"].status == "warning"
    assert "also by a mere kill of the server" in found["durability"].detail


async def test_a_server_that_syncs_always_is_fine(foreign_server: str) -> None:
    found = await findings(foreign_server, maxmemory_policy="noeviction", appendonly="yes", appendfsync="always")
    assert [finding.status for finding in found.values()] == ["ok", "ok"]


def test_a_mirror_that_cannot_reach_its_store_is_a_warning_with_its_reason(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    url = f"file://{tmp_path}/store"
    well, away, another = MirrorState(url, "1-0", 3), MirrorState(url, "1-0", 3, "no route"), MirrorState("s3://x")
    for state, status in ((well, "ok"), (away, "warning"), (another, "warning")):
        state_path(tmp_path).write_bytes(msgspec.json.encode(state))
        found = {one.name: one for one in doctor._folders(Settings(orchestrator_state_dir=str(tmp_path), results_mirror=url))}["mirror"]
        assert found.status == status
        assert state.trouble in found.detail
    other = doctor._folders(Settings(orchestrator_state_dir=str(tmp_path), results_mirror="nonsense://x"))[-1]
    assert (other.name, other.status) == ("mirror", "error")


def test_too_little_room_is_an_error_with_what_to_do(tmp_path: Path) -> None:
    found = doctor._folder("state", tmp_path / "not" / "there", 2**60)
    assert found.status == "error"
    assert found.remedy.startswith("make room")


def test_the_json_report_is_a_list_of_findings_and_the_exit_code_tells_of_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "task_types", lambda: [])
    settings = Settings(orchestrator_state_dir=str(tmp_path), results_dir=str(tmp_path), min_free_disk=0)
    assert doctor.run(settings, as_json=True) == 0
    areas = {finding["area"] for finding in json.loads(capsys.readouterr().out)}
    assert areas == {"Machine", "Event log", "Folders", "API"}
    assert doctor.run(Settings(redis_url="redis://127.0.0.1:1", orchestrator_state_dir=str(tmp_path))) == 1


def test_what_is_not_installed_is_shown_with_the_command_that_gets_it() -> None:
    lacking = doctor._task_type(doctor._Offer("sft", runs=False, missing=["trl", "peft"], extra="training"))
    text = shown([lacking])
    assert "– sft            needs trl, peft" in text
    assert 'pip install "mloc[training]"' in text


def test_optional_parts_are_listed_once_with_the_one_command_that_gets_each() -> None:
    wandb = doctor._Part("wandb", "training.report_to wandb", 'training.report_to wandb needs wandb: pip install "mloc[trackers]"')
    there = doctor._Part("mcp", "MCP servers")
    offers = [doctor._Offer(task_type, runs=True, parts=parts) for task_type, parts in (("sft", [wandb]), ("dpo", [wandb]), ("agent", [there]))]
    assert doctor._parts(offers) == [
        Finding("Optional parts", "wandb", "lacks", "training.report_to wandb needs wandb", 'pip install "mloc[trackers]"'),
        Finding("Optional parts", "mcp", "ok", "MCP servers"),
    ]
    names = {finding.name for finding in doctor.task_types() if finding.area == "Optional parts"}
    assert {"tensorboard", "wandb", "mlflow", "deepspeed", "bitsandbytes", "energy", "vllm", "lm-eval", "mcp", "retrieval"} <= names


def test_gpus_are_listed_with_their_memory_and_a_failing_driver_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, NVIDIA H200, 143771 MiB, 4 MiB'\necho '1, NVIDIA H200, 143771 MiB, 9 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert [(gpu.name, gpu.detail) for gpu in doctor._gpus()] == [
        ("gpu 0", "NVIDIA H200, 143771 MiB, 4 MiB"),
        ("gpu 1", "NVIDIA H200, 143771 MiB, 9 MiB"),
    ]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert [gpu.status for gpu in doctor._gpus()] == ["warning"]
