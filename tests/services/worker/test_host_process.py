"""Real host processes on real pipes."""

import asyncio
import json
import os
import signal
from typing import Any

import pytest

from mloc.core.host_frames import Go, HostReady, Quit, RunTask, Succeeded
from mloc.services.clock import SystemClock
from mloc.services.worker.hosts.host_link import HostExit, HostPlan
from mloc.services.worker.hosts.host_process import ProcessLauncher, ProcessLink
from mloc.services.worker.hosts.line_cutter import LineCutter
from mloc.services.worker.hosts.process_groups import living_members


class Witness:
    """Notes what a link tells."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.lines: list[str] = []
        self.exit: HostExit | None = None
        self._changed = asyncio.Event()

    def frames(self, frames: list[Any]) -> None:
        assert self.exit is None
        self.heard += frames
        self._changed.set()

    def line(self, text: str) -> None:
        self.lines.append(text)
        self._changed.set()

    def ended(self, exit: HostExit) -> None:
        self.exit = exit
        self._changed.set()

    async def until(self, seen: Any, seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not seen(self):
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def launcher() -> ProcessLauncher:
    return ProcessLauncher(os.environ, "test-worker", SystemClock())


async def nobody_left(link: ProcessLink) -> None:
    """The guard leaves a moment after its host."""
    async with asyncio.timeout(20):
        while living_members(link.record, "test-worker"):
            await asyncio.sleep(0.01)


def echo(task: str, text: str = "hello", **echo: Any) -> RunTask:
    return RunTask(task, 1, "echo", json.dumps({"taskType": "echo", "data": {"type": "list", "items": [text]}, "echo": echo}).encode())


async def _light(launcher: ProcessLauncher, witness: Witness) -> ProcessLink:
    link = await launcher.launch(HostPlan(light=True), witness)
    link.send([Go()])
    return link


async def test_a_light_host_answers_a_batch_and_leaves_when_told(launcher: ProcessLauncher) -> None:
    witness = Witness()
    link = await _light(launcher, witness)
    link.send([echo(f"t{number}") for number in range(100)])
    await witness.until(lambda seen: sum(isinstance(frame, Succeeded) for frame in seen.heard) == 100)
    assert isinstance(witness.heard[0], HostReady)
    link.send([Quit()])
    await witness.until(lambda seen: seen.exit is not None)
    assert witness.exit == HostExit(code=0)
    await nobody_left(link)


async def test_megabytes_both_ways_at_once_stand_still_nowhere(launcher: ProcessLauncher) -> None:
    witness = Witness()
    link = await _light(launcher, witness)
    link.send([echo(f"t{number}", "x" * 30_000) for number in range(400)])
    link.send([echo(f"u{number}", "x" * 30_000) for number in range(400)])
    await witness.until(lambda seen: sum(isinstance(frame, Succeeded) for frame in seen.heard) == 800)
    assert link.unsent_bytes == 0
    link.kill()
    await witness.until(lambda seen: seen.exit is not None)


async def test_a_killed_host_is_noticed_at_once_with_its_signal(launcher: ProcessLauncher) -> None:
    witness = Witness()
    link = await _light(launcher, witness)
    await witness.until(lambda seen: seen.heard)
    os.kill(link.record.pid, signal.SIGKILL)
    await witness.until(lambda seen: seen.exit is not None, seconds=2)
    assert witness.exit == HostExit(signal=9)


async def test_orphans_are_killed_and_gone_but_not_a_later_process_with_the_same_pid(launcher: ProcessLauncher) -> None:
    witness, other = Witness(), Witness()
    orphan = await _light(launcher, witness)
    bystander = await ProcessLauncher(os.environ, "another-worker", SystemClock()).launch(HostPlan(light=True), other)
    await launcher.kill_orphans([orphan.record, type(bystander.record)(bystander.record.pid, "1")])
    assert living_members(orphan.record, "test-worker") == []
    assert living_members(bystander.record, "another-worker") != []
    await witness.until(lambda seen: seen.exit is not None)
    bystander.kill()
    await other.until(lambda seen: seen.exit is not None)


def test_lines_are_cut_whole_and_a_progress_bar_is_its_last_state() -> None:
    lines: list[str] = []
    cutter = LineCutter(lines.append)
    for chunk in (b"one\ntw", b"o\n\n10%\r50%\r100%\n", b"r\xc3\xa9st"):
        cutter.feed(chunk)
    cutter.end()
    assert lines == ["one", "two", "100%", "rést"]


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="looks into /proc")
async def test_what_gives_access_to_the_log_stays_out_of_the_hosts() -> None:
    witness = Witness()
    environ = {**os.environ, "REDIS_URL": "redis://:password@host", "ORCHESTRATOR_TOKEN": "token", "HF_TOKEN": "kept"}
    link = await ProcessLauncher(environ, "test-worker", SystemClock()).launch(HostPlan(light=True, devices=(2, 3), threads=4), witness)
    await witness.until(lambda seen: any(type(frame) is HostReady for frame in seen.heard))  # before its exec it shows the parent's environment
    with open(f"/proc/{link.record.pid}/environ", "rb") as file:
        passed = dict(line.split("=", 1) for line in file.read().decode().split("\0") if line)
    assert not {"REDIS_URL", "ORCHESTRATOR_TOKEN"} & passed.keys()
    assert (passed["HF_TOKEN"], passed["CUDA_VISIBLE_DEVICES"], passed["OMP_NUM_THREADS"]) == ("kept", "2,3", "4")
    link.kill()
    await witness.until(lambda seen: seen.exit is not None)
