"""No host outlives its worker, and nothing that a host started outlives the host.

The host watches the pipe itself, but a thread of Python cannot run while a native library holds the interpreter's lock. So a second, tiny
process watches too: forked before anything heavy is imported, it waits until the worker's end of the pipe is closed or the host is gone,
then kills the host's whole process group.
"""

from __future__ import annotations

import os
import select
import signal

HOST_CHECK_MS = 2000


def kill_group() -> None:
    """Kill everything in this process's group at once, or only this process where the group is not its own."""
    if os.getpgrp() == os.getsid(0) or os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def start_guard(from_worker: int) -> None:
    """Fork the guard. Call it before any thread is started. `from_worker`: the end of the pipe that the host reads."""
    alive, held_by_host = os.pipe()  # the host never closes its end, so `alive` ends with the host
    host = os.getpid()
    if os.fork() != 0:
        os.close(alive)
        return
    try:
        os.close(held_by_host)
        _leave_streams(keep=(from_worker, alive))
        poll = select.poll()
        poll.register(from_worker, 0)  # 0: only the end of the pipe, never what is in it
        poll.register(alive, 0)
        while not poll.poll(HOST_CHECK_MS) and os.getppid() == host:
            pass  # a child that the host forked may hold `alive` open: so its parent is looked at too
    finally:
        if os.getpgrp() == host:
            os.killpg(host, signal.SIGKILL)
        elif os.getppid() == host:
            os.kill(host, signal.SIGKILL)
        os._exit(0)


def _leave_streams(keep: tuple[int, ...]) -> None:
    """Let go of every other descriptor, so that the worker sees the end of the host's output when the host ends."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    kept = sorted((*keep, 2))
    for below, above in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(below + 1, above)
