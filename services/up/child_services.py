"""One child process of `mloc up`: started, its output passed on line by line, started again when it ends before it should."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import IO

import structlog
from msgspec import Struct

from mloc.services.exit_codes import FAILED, MISCONFIGURED
from mloc.services.parent_death import die_with_parent

FIRST_DELAY_SEC, LONGEST_DELAY_SEC, STABLE_AFTER_SEC = 0.1, 5.0, 10.0
SETTLED_AFTER_SEC = 1.0  # what cannot run at all has ended by then
MOST_CRASHES = 5  # in a row, before everything was ready once
COLORS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)
_log = structlog.get_logger("up")


class ServiceFailedError(Exception):
    """A service that cannot be started before a person did something; it has said what."""


class Launch(Struct, frozen=True):
    """How the child `name` is started; `environ` is its whole environment."""

    name: str
    command: tuple[str, ...]
    environ: dict[str, str]


class ChildService:
    """A process group of its own, so that ctrl-C reaches only `mloc up`, which then stops its children in order.

    A child killed with its parent is killed outright: every service is built to be killed at any moment.
    """

    def __init__(self, launch: Launch, prefix: str, output: IO[bytes], started: Callable[[str, int], None]) -> None:
        self.name = launch.name
        self._launch = launch
        self._prefix = prefix.encode()
        self._output = output
        self._started = started
        self._child: asyncio.subprocess.Process | None = None
        self.gives_up = True
        """Whether a service that only crashes ends `mloc up`; no longer so once everything was ready."""
        self._stopping = False
        self._wake = asyncio.Event()
        self._began = 0.0

    async def run(self) -> None:
        """Until stop(). Raises ServiceFailedError where the child says that a restart cannot help, or it only crashes."""
        delay, crashes = FIRST_DELAY_SEC, 0
        while not self._stopping:
            self._began = time.monotonic()
            ended = await self._run_once()
            if self._stopping:
                return
            if ended == MISCONFIGURED:
                raise ServiceFailedError(f"{self.name} cannot run; what it says above tells what to change")
            if time.monotonic() - self._began > STABLE_AFTER_SEC:
                delay, crashes = FIRST_DELAY_SEC, 0
            crashes += ended == FAILED
            if self.gives_up and crashes >= MOST_CRASHES:
                raise ServiceFailedError(f"{self.name} crashed {crashes} times before everything was ready; what it says above tells why")
            _log.warning(f"{self.name} ended and is started again", exit=_exit_shown(ended), delay_sec=delay)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)
            delay = min(delay * 2, LONGEST_DELAY_SEC)

    def stop(self) -> None:
        """Ask it to end cleanly, and do not start it again."""
        self._stopping = True
        self._wake.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        self._stopping = True
        self._wake.set()
        self._signal(signal.SIGKILL)

    @property
    def runs(self) -> bool:
        return self._child is not None and self._child.returncode is None

    @property
    def settled(self) -> bool:
        return self.runs and time.monotonic() - self._began >= SETTLED_AFTER_SEC

    async def _run_once(self) -> int:
        self._child = child = await asyncio.create_subprocess_exec(
            *self._launch.command, env=self._launch.environ,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            process_group=0, preexec_fn=die_with_parent(signal.SIGKILL),
        )  # fmt: skip
        self._started(self.name, child.pid)
        if self._stopping:  # stop() came while it was being started
            self._signal(signal.SIGTERM)
        assert child.stdout is not None
        passing_on = asyncio.create_task(self._pass_on(child.stdout))
        ended = await child.wait()
        with contextlib.suppress(TimeoutError):  # a grandchild may hold the pipe open
            await asyncio.wait_for(passing_on, 1.0)
        return ended

    async def _pass_on(self, lines: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await lines.read(65536):
            *whole, rest = (rest + chunk).split(b"\n")
            self._write(whole)
        if rest:
            self._write([rest])

    def _write(self, lines: list[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads our output any more
            self._output.write(b"".join(self._prefix + line + b"\n" for line in lines))
            self._output.flush()

    def _signal(self, number: signal.Signals) -> None:
        if not self.runs or self._child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self._child.pid, number)
            else:
                self._child.send_signal(number)


def prefix_of(name: str, position: int, width: int, color: bool) -> str:
    """`scheduler  | `, in the service's own colour."""
    text = f"{name:<{width}} | "
    return f"\x1b[{COLORS[position % len(COLORS)]}m{text}\x1b[0m" if color else text


def _exit_shown(ended: int) -> str:
    return str(ended) if ended >= 0 else signal.Signals(-ended).name
