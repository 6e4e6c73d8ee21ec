"""Training in several processes, one a device, or as many as `training.nproc_per_node` says: started here, watched, ended together.

The ranks get the variables that torchrun sets, and so accelerate, FSDP and DeepSpeed find each other. They are not started by torchrun: it
puts each into a session of its own, where the kill of a host would not reach them; these are in the host's process group and end with it.
Rank 0 speaks for all. When one fails or dies, the others are killed, and the attempt fails.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mloc.core.host_frames import CheckpointDone, Failed, FrameReader, RunTask, Stopped, StopTask, Succeeded, Telemetry, encode_frames
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Checkpoint, Context, ExecutorError, Progress, Report, Result, ResultFile
from mloc.executors.frames import write_all
from mloc.executors.ranks import MARK, threads_each

OWN_NAMES = frozenset({"allow_multi_gpu", "visible_devices", "nproc_per_node"})
LOOK_SEC = 0.2
LEAVE_SEC = 60.0  # for the other ranks, once rank 0 has the result


class Launch(msgspec.Struct, frozen=True):
    """How many ranks, and which of the attempt's devices they have between them."""

    count: int
    devices: tuple[int, ...] = ()


def launch_of(spec: TaskSpec, context: Context, *, always: bool = False) -> Launch | None:
    """What `training` asks for; None: this process trains by itself. `always`: also a single rank gets a process. Raises ExecutorError."""
    training, devices = spec.training, _visible(spec.training.get("visible_devices"), context)
    count = training.get("nproc_per_node")
    if count is None:
        count = len(devices) if devices and training.get("allow_multi_gpu", True) else 1
    if not isinstance(count, int) or count < 1:
        raise ExecutorError("BadSetting", f"training.nproc_per_node must be at least 1, found {count!r}")
    if devices and count > len(devices):
        raise ExecutorError("BadSetting", f"training.nproc_per_node is {count}, and the task has {len(devices)} devices; ask for more in resources")
    here = context.devices[: len(devices[:count])]  # what this process would take by itself
    return Launch(count, devices[:count]) if count > 1 or always or devices[:count] != here else None


def _visible(given: Any, context: Context) -> tuple[int, ...]:
    """The task's devices that are to be used; they are numbered from 0 whatever the machine calls them."""
    if given is None or not context.devices:
        return context.devices
    words = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else [given]
    try:
        chosen = tuple(int(word) for word in words)
    except (TypeError, ValueError) as error:
        raise ExecutorError("BadSetting", f"training.visible_devices must be numbers such as 0,1; found {given!r}") from error
    if strange := [number for number in chosen if number not in context.devices]:
        there = ", ".join(map(str, context.devices))
        raise ExecutorError("BadSetting", f"training.visible_devices: this task has no device {strange[0]}; it has {there} (numbered from 0)")
    return chosen


class _Rank:
    def __init__(self, number: int, launch: Launch, port: int) -> None:
        from_host, self._to_rank = os.pipe()
        self.reads, to_host = os.pipe()
        command = [sys.executable, "-m", "mloc.executors.training.rank", "--read-fd", str(from_host), "--write-fd", str(to_host)]
        try:
            self.child = subprocess.Popen(
                command, pass_fds=(from_host, to_host), stdin=subprocess.DEVNULL, env={**os.environ, **_environment(number, launch, port)}
            )
        finally:
            os.close(from_host)
            os.close(to_host)
        self.number = number
        self.ended: Any = None  # its last frame
        self._reader = FrameReader(from_host=True)

    def send(self, frame: Any) -> None:
        try:
            write_all(self._to_rank, encode_frames([frame]))
        except BrokenPipeError:
            return  # it ended: its pipe says so

    def frames(self) -> list[Any] | None:
        """What it said; None at its end."""
        chunk = os.read(self.reads, 1 << 20)
        return list(self._reader.feed(chunk)) if chunk else None

    def end(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        os.close(self.reads)
        os.close(self._to_rank)

    def death(self) -> str:
        code = self.child.wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended by itself with exit code {code}"


def run_ranks(task: RunTask, launch: Launch, context: Context) -> Iterator[Report]:
    """Run the task in the ranks; what rank 0 reports is reported. Raises ExecutorError."""
    port = _free_port()
    yield Progress((f"training in {launch.count} processes{f' on the devices {launch.devices}' if launch.devices else ''}",))
    ranks: list[_Rank] = []
    try:
        for number in range(launch.count):
            ranks.append(_Rank(number, launch, port))
        for one in ranks:
            one.send(task)
        yield from _watch(ranks, task, context)
    finally:
        for one in ranks:
            one.end()


def _watch(ranks: list[_Rank], task: RunTask, context: Context) -> Iterator[Report]:
    told, deadline = False, float("inf")
    with selectors.DefaultSelector() as selector:
        for one in ranks:
            selector.register(one.reads, selectors.EVENT_READ, one)
        while selector.get_map() and time.monotonic() < deadline:
            if context.stopping() and not told:
                told = True
                for one in ranks:
                    one.send(StopTask(task.task, task.attempt, "asked to stop"))
            for key, _ in selector.select(LOOK_SEC):
                one = key.data
                frames = one.frames()
                if frames is None:
                    selector.unregister(one.reads)
                    if one.ended is None and not told:
                        died = f"the process of rank {one.number} of {len(ranks)} {one.death()}; the others were ended with it"
                        raise ExecutorError("RankDied", died, retryable=True)
                for frame in frames or []:
                    yield from _reports(one, frame, told)
            if ranks[0].ended is not None and deadline == float("inf"):
                deadline = time.monotonic() + LEAVE_SEC
                if isinstance(ranks[0].ended, Stopped):
                    return


def _reports(one: _Rank, frame: Any, told: bool) -> Iterator[Report]:
    match frame:
        case Failed(error=error):
            one.ended = frame
            if not told:
                raise ExecutorError(error.type, f"rank {one.number}: {error.message}", retryable=error.retryable)
        case Stopped():
            one.ended = frame
        case Succeeded():
            one.ended = frame
            if one.number == 0:
                yield _result(frame)
        case Telemetry() if one.number == 0:
            yield Progress(frame.lines, frame.step, frame.total_steps, frame.metrics)
        case CheckpointDone() if one.number == 0:
            yield Checkpoint(frame.step, Path(frame.path), frame.sha256)


def _result(frame: Succeeded) -> Result | ResultFile:
    if frame.result:
        return Result(msgspec.json.decode(frame.result), frame.files)
    return ResultFile(frame.sha256, frame.size_bytes, frame.usage)


def _environment(number: int, launch: Launch, port: int) -> dict[str, str]:
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    chosen = {"CUDA_VISIBLE_DEVICES": ",".join(devices[device] for device in launch.devices)} if launch.devices else {}
    return {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(launch.count), "LOCAL_WORLD_SIZE": str(launch.count),
        MARK: "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": str(threads_each(launch.count)), **chosen,
    }  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
