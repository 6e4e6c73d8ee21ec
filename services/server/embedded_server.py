"""The embedded server of a state folder: a real Valkey (or Redis) on a unix socket, started and supervised by `mloc up`.

    server = EmbeddedServer(state_dir)
    url = await server.start()          # or EmbeddedServerError
    await server.supervise()            # restarts it when it dies; ends with stop()

Every other command finds it with `record.find_server`. With durability "always" each acknowledged write is on disk.
"""

import asyncio
import os
import shutil
import signal
import stat
import time
from pathlib import Path

import structlog

from mloc.services.parent_death import die_with_parent
from mloc.services.server import record as server_record
from mloc.services.server.binary import ServerBinaryError, server_binary
from mloc.services.server.failures import EmbeddedServerError, explain_exit
from mloc.services.server.record import ServerRecord, StateFolderLocked

LOG_KEPT_BYTES = 5 * 1024**2
SHARE_OF_MEMORY = 0.25
FIRST_DELAY_SEC, LONGEST_DELAY_SEC, STABLE_AFTER_SEC = 0.1, 5.0, 10.0
_log = structlog.get_logger("embedded-server")


class EmbeddedServer:
    """One server process at a time; the state folder is locked against a second `mloc up` from start() to stop()."""

    def __init__(self, state_dir: Path, durability: str = "always", min_free_disk: int = 1024**3) -> None:
        self._state_dir = state_dir.resolve()
        self._folder = self._state_dir / "server"
        self._socket = server_record.socket_path(state_dir)
        self._durability = durability
        self._min_free_disk = min_free_disk
        self._lock: int | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._binary = Path()

    @property
    def url(self) -> str:
        return server_record.unix_url(self._socket)

    @property
    def pid(self) -> int:
        """Of the process that was started last; 0 before the first."""
        return self._child.pid if self._child else 0

    async def start(self) -> str:
        """Lock the folder, start the server, wait until it has loaded the log; gives its URL. Raises EmbeddedServerError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = server_record.lock_state_folder(self._state_dir)
            self._binary = server_binary()
        except (StateFolderLocked, ServerBinaryError) as error:
            self._unlock()
            raise EmbeddedServerError(str(error), hopeless=True) from error
        except OSError as error:
            self._unlock()
            raise EmbeddedServerError(
                f"the state folder {self._state_dir} cannot be used: {error.strerror}; set ORCHESTRATOR_STATE_DIR", hopeless=True
            ) from error
        try:
            await self._end_orphan()
            await self._launch()
        except BaseException:
            self._unlock()
            raise
        return self.url

    async def supervise(self) -> None:
        """Until stop(): start the server again when it ends. Raises EmbeddedServerError where only a person can help."""
        delay = FIRST_DELAY_SEC
        while not self._stopping.is_set():
            began = time.monotonic()
            ended = await self._ended()
            if self._stopping.is_set():
                return
            delay = FIRST_DELAY_SEC if time.monotonic() - began > STABLE_AFTER_SEC else min(delay * 2, LONGEST_DELAY_SEC)
            _log.warning("the embedded server ended and is started again", exit=ended, delay_sec=delay)
            while not await self._stopped_within(delay):
                try:
                    await self._launch()
                    break
                except EmbeddedServerError as error:
                    if error.hopeless:
                        raise
                    _log.error(str(error))
                    delay = min(delay * 2, LONGEST_DELAY_SEC)

    async def stop(self, patience_sec: float = 10.0) -> None:
        """End the server cleanly (it writes what it has), the record and the lock."""
        self.terminate()
        if self._child is not None and self._child.returncode is None:
            try:
                await asyncio.wait_for(self._child.wait(), patience_sec)
            except TimeoutError:
                self._child.kill()
                await self._child.wait()
        if self._lock is not None:
            server_record.forget_record(self._state_dir)
        self._unlock()

    def terminate(self) -> None:
        """Ask the server to end, without waiting for it."""
        self._stopping.set()
        if self._child is not None and self._child.returncode is None:
            self._child.terminate()

    async def _launch(self) -> None:
        """One start: enough disk, a free socket, the configuration, the process, its first PONG, the record."""
        self._check_disk()
        self._clear_socket()
        config = self._folder / "server.conf"
        config.write_text(self._configuration())
        log = self._folder / "server.log"
        if log.exists() and log.stat().st_size > LOG_KEPT_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            start_of_log = output.tell()
            self._child = await asyncio.create_subprocess_exec(
                self._binary, config, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                process_group=0, preexec_fn=die_with_parent(signal.SIGTERM),
            )  # fmt: skip
        await self._until_ready(log, start_of_log)
        server_record.write_record(self._state_dir, self._record())

    def _record(self) -> ServerRecord:
        return ServerRecord(
            pid=self.pid, started=server_record.process_start(self.pid), socket=str(self._socket), binary=str(self._binary)
        )

    async def _until_ready(self, log: Path, start_of_log: int) -> None:
        child, told, since = self._child, False, time.monotonic()
        assert child is not None
        while child.returncode is None:
            answer = await _ping(self._socket)
            if answer.startswith("+PONG"):
                return
            if answer.startswith("-LOADING") and not told and time.monotonic() - since > 1:
                told = True
                _log.info("the embedded server loads the event log")
            await asyncio.sleep(0.005)  # the server's socket gives no event before it is there
        with log.open("rb") as lines:
            lines.seek(start_of_log)
            said = lines.read()[-8000:].decode(errors="replace")
        raise explain_exit(said, self._folder, self._binary, self._socket)

    async def _ended(self) -> int:
        assert self._child is not None
        return await self._child.wait()

    async def _stopped_within(self, delay_sec: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), delay_sec)
        except TimeoutError:
            return False
        return True

    async def _end_orphan(self) -> None:
        """A server whose `mloc up` was killed (we hold the lock, so it has none): two must never write one folder."""
        record = server_record.read_record(self._state_dir)
        if record is None or not record.started or server_record.process_start(record.pid) != record.started:
            return
        _log.warning("ending the server that an earlier `mloc up` left behind", pid=record.pid)
        os.kill(record.pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while server_record.process_start(record.pid) == record.started:
            if time.monotonic() > deadline:
                os.kill(record.pid, signal.SIGKILL)
            await asyncio.sleep(0.01)

    def _clear_socket(self) -> None:
        folder = self._socket.parent
        if folder != self._state_dir:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise EmbeddedServerError(f"{folder} belongs to someone else or is open to others: remove it", hopeless=True)
        if server_record.answers(self._socket):
            raise EmbeddedServerError(f"the socket {self._socket} is in use by a server that this folder does not know: end it", True)
        self._socket.unlink(missing_ok=True)

    def _check_disk(self) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < self._min_free_disk:
            raise EmbeddedServerError(
                f"only {free / 1024**2:,.0f} MiB are free at {self._folder}, and the event log wants {self._min_free_disk / 1024**2:,.0f} MiB: "
                "make room, or set MIN_FREE_DISK lower or ORCHESTRATOR_STATE_DIR to another disk"
            )

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _configuration(self) -> str:
        options = {
            "dir": _quoted(self._folder),
            "port": "0",
            "unixsocket": _quoted(self._socket),
            "unixsocketperm": "600",
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec" if self._durability == "fast" else "always",
            "no-appendfsync-on-rewrite": "no",  # else a rewrite in the background suspends the syncs
            "aof-load-truncated": "yes",  # a torn last write is cut; scripts are whole or absent
            "auto-aof-rewrite-min-size": "256mb",
            "save": '""',
            "maxmemory": str(int(memory_limit_bytes() * SHARE_OF_MEMORY)),
            "maxmemory-policy": "noeviction",  # full is a refusal, never a lost event
            "stream-node-max-entries": "100",
        }
        return "".join(f"{name} {value}\n" for name, value in options.items())


def memory_limit_bytes() -> int:
    """Memory that this process may use: the machine's, or the container's limit."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine


async def _ping(socket: Path) -> str:
    """The first line of the answer to PING; "" where nothing listens yet."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return ""
    try:
        writer.write(b"PING\r\n")
        return (await asyncio.wait_for(reader.readline(), 5)).decode(errors="replace")
    except (OSError, TimeoutError):
        return ""
    finally:
        writer.close()


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
