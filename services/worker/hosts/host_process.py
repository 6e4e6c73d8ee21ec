"""Real host processes: a child in a session and process group of its own, with a pipe each way and its output read line by line.

Nothing here blocks: both pipes are non-blocking, what does not fit waits in memory and counts as unsent. The child is started from the
main thread, because the kernel kills it when the thread that started it ends.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import structlog

from mloc.core.host_frames import FrameError, FrameReader, RunTask, WorkerFrame, encode_frames
from mloc.services.clock import Clock
from mloc.services.setting_variables import variables
from mloc.services.worker.hosts.host_link import HostExit, HostPlan, HostWatch
from mloc.services.worker.hosts.line_cutter import LineCutter
from mloc.services.worker.hosts.process_groups import MARK, kill_group, living_members, start_of
from mloc.services.worker.ledger import HostStarted

READ_BYTES = 1024 * 1024
PIPE_BYTES = 1024 * 1024
BLOCK_BYTES = 1024 * 1024  # of specs in one block of frames
F_SETPIPE_SZ = 1031  # Linux; fcntl has the name only from 3.10 on and only there

# what gives access to the log and the API; a task's code, or an agent's Python tool, runs in a host
_OURS_ALONE = {name for field, variable in variables().items() if variable.secret for name in (field.upper(), *variable.older)}

_log = structlog.get_logger("worker")


class ProcessLauncher:
    """Starts `python -m mloc.executors.host`. `mark` goes into the hosts' environment and tells our processes from others."""

    def __init__(self, environ: Mapping[str, str], mark: str, clock: Clock) -> None:
        self._environ = environ
        self._mark = mark
        self._clock = clock

    async def launch(self, plan: HostPlan, watch: HostWatch) -> ProcessLink:
        host_reads, worker_writes = os.pipe()
        worker_reads, host_writes = os.pipe()
        command = [sys.executable, "-m", "mloc.executors.host", "--read-fd", str(host_reads), "--write-fd", str(host_writes)]
        try:
            process = subprocess.Popen(
                command + ["--light"] * plan.light,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                pass_fds=(host_reads, host_writes), env=self._environment(plan),
            )  # fmt: skip
        except OSError:
            for end in (worker_writes, worker_reads):
                os.close(end)
            raise
        finally:
            os.close(host_reads)
            os.close(host_writes)
        return ProcessLink(process, worker_reads, worker_writes, watch)

    async def kill_orphans(self, hosts: Sequence[HostStarted]) -> None:
        """Waits for as long as it takes: a process group that lives may hold a device."""
        waited = 0.0
        while living := [host for host in hosts if living_members(host, self._mark)]:
            for host in living:
                kill_group(host.pid)
            await self._clock.sleep(0.02)
            waited += 0.02
            if waited > 10:
                _log.warning("processes of this worker's earlier life do not end", groups=[host.pid for host in living])
                waited = 0.0

    def _environment(self, plan: HostPlan) -> dict[str, str]:
        threads = str(plan.threads)
        return {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            **{name: value for name, value in self._environ.items() if name not in _OURS_ALONE},
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, plan.devices)),
            "PYTHONUNBUFFERED": "1",
            MARK: self._mark,
        }


class ProcessLink:
    """One host process, on the running loop."""

    def __init__(self, process: subprocess.Popen[bytes], reads: int, writes: int, watch: HostWatch) -> None:
        assert process.stdout is not None
        self.record = HostStarted(process.pid, start_of(process.pid))
        self._process = process
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._reads, self._writes, self._prints = reads, writes, process.stdout.fileno()
        self._frames = FrameReader(from_host=True)
        self._lines = LineCutter(watch.line)
        self._unsent: deque[memoryview] = deque()
        self.unsent_bytes = 0
        self._over = False
        for descriptor in (reads, writes, self._prints):
            os.set_blocking(descriptor, False)
        _widen(reads, writes)
        self._loop.add_reader(reads, self._read_frames)
        self._loop.add_reader(self._prints, self._read_lines)
        threading.Thread(target=self._await_end, name=f"host-{process.pid}", daemon=True).start()

    def send(self, frames: Sequence[WorkerFrame]) -> None:
        if self._over or not frames:
            return
        idle = not self._unsent
        for some in _blocks(frames):
            block = encode_frames(some)
            self._unsent.append(memoryview(block))
            self.unsent_bytes += len(block)
        if idle:
            self._write()

    def kill(self) -> None:
        if not self._over:
            kill_group(self.record.pid)

    def _write(self) -> None:
        try:
            while self._unsent:
                written = os.write(self._writes, self._unsent[0])
                self.unsent_bytes -= written
                if written < len(self._unsent[0]):
                    self._unsent[0] = self._unsent[0][written:]
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._writes, self._write)
            return
        except OSError:  # the host has ended; its end is noticed by the thread that waits for it
            self._unsent.clear()
            self.unsent_bytes = 0
        self._loop.remove_writer(self._writes)

    def _read_frames(self) -> bool:
        """Whether there may be more."""
        try:
            chunk = os.read(self._reads, READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._loop.remove_reader(self._reads)
            return False
        try:
            frames = self._frames.feed(chunk)
        except FrameError as error:
            _log.error("a host says what cannot be understood; it is killed", pid=self.record.pid, error=str(error))
            self._loop.remove_reader(self._reads)
            self.kill()
            return False
        if frames:
            self._watch.frames(frames)
        return True

    def _read_lines(self) -> bool:
        try:
            chunk = os.read(self._prints, READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._loop.remove_reader(self._prints)
            return False
        self._lines.feed(chunk)
        return True

    def _await_end(self) -> None:
        if hasattr(os, "waitid"):  # while the dead leader is not reaped, its pid is nobody else's
            os.waitid(os.P_PID, self.record.pid, os.WEXITED | os.WNOWAIT)
            kill_group(self.record.pid)
        self._process.wait()
        try:
            self._loop.call_soon_threadsafe(self._ended)
        except RuntimeError:  # the loop is closed: nobody wants to know any more
            return

    def _ended(self) -> None:
        """What it said before it ended comes first."""
        self._over = True
        while self._read_frames():
            pass
        while self._read_lines():
            pass
        self._lines.end()
        for descriptor in (self._reads, self._prints):
            self._loop.remove_reader(descriptor)
        self._loop.remove_writer(self._writes)
        os.close(self._reads)
        os.close(self._writes)
        assert self._process.stdout is not None
        self._process.stdout.close()
        code = self._process.returncode
        self._watch.ended(HostExit(signal=-code) if code < 0 else HostExit(code=code))


def _blocks(frames: Sequence[WorkerFrame]) -> Iterator[list[Any]]:
    """Frames in a row, cut where a block would become large."""
    block: list[Any] = []
    size = 0
    for frame in frames:
        block.append(frame)
        size += len(frame.spec) if isinstance(frame, RunTask) else 0
        if size > BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _widen(*pipes: int) -> None:
    """Larger pipes need fewer turns; without the right to it the usual size serves."""
    if sys.platform == "linux":
        import fcntl

        for pipe in pipes:
            try:
                fcntl.fcntl(pipe, F_SETPIPE_SZ, PIPE_BYTES)
            except OSError:
                return
