"""The demo's own MLOC: an `mloc up` as a child process in the demo's folder, found, killed in parts and stopped by recorded pids."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from mloc.services.demo.failure import DemoFailed
from mloc.services.exit_codes import FAILED
from mloc.services.parent_death import die_with_parent
from mloc.services.server.record import process_start, read_record
from mloc.services.setting_variables import variables
from mloc.services.settings import DOTENV, Settings, load_settings, read_environment
from mloc.services.up.record import UpRecord, read_up_record
from mloc.services.up.supervision import MLOC, ONE_MACHINE_DEFAULTS

WORKERS = 2
START_PATIENCE_SEC = 90.0
RESTART_PATIENCE_SEC = 30.0
STOP_PATIENCE_SEC = 15.0
KEPT = ("MIN_FREE_DISK", "MLOC_DURABILITY", "LOG_LEVEL")  # of the person's own settings; every other one would be another system's
POLL_SEC = 0.02


def own_environment(folder: Path, port: int) -> dict[str, str]:
    """The person's environment without settings of MLOC, and with those of the demo."""
    foreign = {name for field, variable in variables().items() for name in (field.upper(), *variable.older)}
    environ = {name: text for name, text in read_environment().items() if name in KEPT or name not in foreign}
    if "PYTHONPATH" in environ:  # the child works in another folder
        environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(part) for part in environ["PYTHONPATH"].split(os.pathsep) if part)
    return {
        **ONE_MACHINE_DEFAULTS, **environ, **_lasting(port), "ORCHESTRATOR_STATE_DIR": str(folder / "state"), "LOG_COLOR": "never",
        "RESULTS_DIR": str(folder / "results"), "STATE_FLUSH_INTERVAL_SEC": "0.5", "WORKER_DRAIN_SEC": "3",
    }  # fmt: skip


def _lasting(port: int) -> dict[str, str]:
    """Settings that an `mloc up` in the folder shall have later, too: the same workers, a port that is not everyone's."""
    return {"WORKER_ID": "worker", "PORT": str(port)}


class OwnSystem:
    """`worker-1` and `worker-2` are the workers' ids in the log as well as the names of their processes."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        (folder / DOTENV).write_text("".join(f"{name}={text}\n" for name, text in _lasting(port).items()))
        self.environ = own_environment(folder, port)
        self.settings: Settings = load_settings(self.environ)
        self._log = folder / "up.log"
        self._child: asyncio.subprocess.Process | None = None
        self._seen: dict[int, tuple[str, str]] = {}  # pid → (name, when it started)

    async def start(self) -> UpRecord:
        """Until everything answers. Raises DemoFailed."""
        with self._log.open("wb") as log:
            self._child = await asyncio.create_subprocess_exec(
                *MLOC, "up", "--workers", str(WORKERS), cwd=self.folder, env=self.environ, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=log, process_group=0, preexec_fn=die_with_parent(signal.SIGTERM),
            )  # fmt: skip
        try:
            is_up = await asyncio.wait_for(_greeted(self._child), START_PATIENCE_SEC)
        except TimeoutError as error:
            raise DemoFailed(f"not everything was up after {START_PATIENCE_SEC:.0f} s; {self._where()}") from error
        if not is_up:
            raise DemoFailed(f"`mloc up` did not start: {self._last_words()}", await self._child.wait() or FAILED)
        return self.record()

    def record(self) -> UpRecord:
        """What runs now. Raises DemoFailed where `mloc up` has ended."""
        record = read_up_record(self.settings.state_dir)
        if record is None:
            raise DemoFailed(f"`mloc up` does not run any more: {self._last_words()}")
        server = read_record(self.settings.state_dir)
        running = {"mloc up": record.pid, **record.services, **({"event log": server.pid} if server else {})}
        self._seen |= {pid: (name, started) for name, pid in running.items() if pid not in self._seen and (started := process_start(pid))}
        return record

    async def until_ended(self) -> str:
        """Until `mloc up` has ended; gives what it said last."""
        assert self._child is not None
        await self._child.wait()
        return self._last_words()

    def kill(self, service: str) -> int:
        """kill -9; gives the pid that it had."""
        pid = self.record().services[service]
        os.kill(pid, signal.SIGKILL)
        return pid

    async def until_restarted(self, service: str, killed: int) -> int:
        """The pid of the process that took the killed one's place. Raises DemoFailed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESTART_PATIENCE_SEC):
                while (pid := self.record().services.get(service, killed)) == killed:
                    await asyncio.sleep(POLL_SEC)
                return pid
        raise DemoFailed(f"{service} was not started again within {RESTART_PATIENCE_SEC:.0f} s of its kill; {self._where()}")

    async def stop(self) -> int:
        """Everything, whatever state it is in; gives how many processes had been started. Raises DemoFailed where one is left."""
        with contextlib.suppress(DemoFailed):
            self.record()
        if self._child is not None:
            for _ in range(2):  # asked again, `mloc up` ends everything at once
                if await self._ended_within(STOP_PATIENCE_SEC):
                    break
            else:
                self._child.kill()
                await self._child.wait()
        left = await self._left()
        if left:
            names = ", ".join(f"{self._seen[pid][0]} ({pid})" for pid in left)
            raise DemoFailed(f"still running after the stop: {names}. End them: kill -9 {' '.join(map(str, left))}")
        return len(self._seen)

    def end_at_once(self) -> None:
        """For a second ctrl-C: nothing is waited for."""
        if self._child is not None and self._child.returncode is None:
            self._child.terminate()
            self._child.terminate()

    async def run_command(self, module: str, *arguments: str) -> tuple[int, str]:
        """One of MLOC's commands as a process of its own, in the demo's folder: exit code and all that it said."""
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments, cwd=self.folder, env=self.environ, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, preexec_fn=die_with_parent(signal.SIGKILL),
        )  # fmt: skip
        said, _ = await child.communicate()
        return child.returncode or 0, said.decode(errors="replace")

    async def _ended_within(self, seconds: float) -> bool:
        assert self._child is not None
        with contextlib.suppress(ProcessLookupError):
            self._child.terminate()
        try:
            await asyncio.wait_for(self._child.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _left(self) -> list[int]:
        """Processes of the demo that have not ended; a killed one takes a moment."""
        for _ in range(100):
            left = [pid for pid, (_, started) in self._seen.items() if process_start(pid) == started]
            if not left:
                break
            await asyncio.sleep(POLL_SEC)
        return left

    def _last_words(self) -> str:
        """What `mloc up` and its services said for people at their end."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        told = [line for line in lines if line.partition("| ")[2].startswith("mloc ") or line.startswith("mloc ")]
        return "\n  ".join([*told[-3:], self._where()])

    def _where(self) -> str:
        return f"{self._log} and {self.settings.state_dir / 'logs'} tell what happened"


async def _greeted(child: asyncio.subprocess.Process) -> bool:
    """Whether "MLOC is up" came before the end."""
    assert child.stdout is not None
    while line := await child.stdout.readline():
        if line.startswith(b"MLOC is up"):
            return True
    return False
