"""`mloc up`: everything on one machine. The embedded server unless REDIS_URL names one, then each service as a process of its own.

Start: server, then all services at once; "MLOC is up" when the API answers and every worker registered.
While up: what ends is started again, after 0.1 s first, then with growing delays.
Stop: workers and API first (workers finish what they run), then the services, then the server. A second signal ends all at once.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog
from msgspec import structs

from mloc.services.exit_codes import CLEAN, FAILED, MISCONFIGURED, UNAVAILABLE
from mloc.services.server.address import NoServerError, check_reachable
from mloc.services.server.embedded_server import EmbeddedServer
from mloc.services.server.failures import EmbeddedServerError
from mloc.services.server.record import process_start
from mloc.services.settings import Settings, SettingsError, api_address
from mloc.services.signals import stop_on_signals
from mloc.services.up.child_services import ChildService, Launch, ServiceFailedError, prefix_of
from mloc.services.up.readiness import healthy_pid, last_event, until_registered
from mloc.services.up.record import UpRecord, forget_up_record, write_up_record

CORE_SERVICES = ("scheduler", "aggregator", "metrics", "intake-api")
STOPPED_FIRST = ("worker", "intake-api")
ONE_MACHINE_DEFAULTS = {"HEARTBEAT_INTERVAL_SEC": "1", "HEARTBEAT_TTL_SEC": "5", "RESULTS_DIR": "./results"}
MLOC = (sys.executable, "-m", "mloc.services.command_line")
REMIND_SEC = 10.0
_log = structlog.get_logger("up")


def run(settings: Settings, environ: Mapping[str, str], workers: int = 1) -> int:
    """Until it is stopped; gives the exit code. `environ` is what the settings were read from: the children read it too."""
    return asyncio.run(Up(settings, environ, workers).run())


def service_names(workers: int) -> list[str]:
    return [*CORE_SERVICES, *(f"worker-{number}" for number in range(1, workers + 1))]


class Up:
    """One run of `mloc up`."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], workers: int) -> None:
        self._settings = settings
        self._environ = environ
        self._workers = workers
        self._server: EmbeddedServer | None = None
        self._children: list[ChildService] = []
        self._pids: dict[str, int] = {}
        self._url = settings.redis_url or ""
        self._host, self._port = "127.0.0.1", settings.port

    async def run(self) -> int:
        stop = stop_on_signals(self._stop_requested, self._end_at_once)
        try:
            self._host, self._port = api_address(self._settings)
            _check_port_free(self._host, self._port)
            _check_results_folder(self._results_folder())
            await self._find_or_start_server()
            return await self._serve(stop)
        except (SettingsError, EmbeddedServerError, ServiceFailedError, NoServerError) as error:
            if stop.is_set():  # stopped while it was starting
                return CLEAN
            print(f"mloc up: {error}", file=sys.stderr)
            return UNAVAILABLE if isinstance(error, NoServerError) else MISCONFIGURED
        finally:
            await self._stop_all()

    async def _find_or_start_server(self) -> None:
        if self._settings.redis_url:
            await check_reachable(self._settings.redis_url)
            return
        self._server = EmbeddedServer(self._settings.state_dir, self._settings.mloc_durability, self._settings.min_free_disk)
        self._url = await self._server.start()
        _log.info("the embedded server runs", event_log=self._url, durability=self._settings.mloc_durability)

    async def _serve(self, stop: asyncio.Event) -> int:
        """Everything runs until `stop`, or until something cannot run any more."""
        self._settings.state_dir.mkdir(parents=True, exist_ok=True)
        position = await last_event(self._url, self._settings.mloc_namespace)
        self._children = list(self._make_children())
        running = [asyncio.create_task(child.run(), name=child.name) for child in self._children]
        if self._server is not None:
            running.append(asyncio.create_task(self._server.supervise(), name="embedded server"))
        greeting = asyncio.create_task(self._greet_when_ready(position))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([*running, stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in (greeting, stopped):
            task.cancel()
        failed = [task.exception() for task in running if task.done() and task.exception()]
        await self._stop_all()
        await asyncio.gather(*running, return_exceptions=True)
        if failed and failed[0] is not None:
            raise failed[0]
        return CLEAN if stop.is_set() else FAILED

    def _make_children(self) -> Iterator[ChildService]:
        names = [*service_names(self._workers), *(["mirror"] if self._settings.results_mirror else [])]
        color = sys.stderr.isatty()
        width = max(map(len, names))
        for position, name in enumerate(names):
            service = "worker" if name.startswith("worker-") else name
            launch = Launch(name, (*MLOC, service), self._child_environ(name))
            yield ChildService(launch, prefix_of(name, position, width, color), sys.stderr.buffer, self._record_start)

    def _child_environ(self, name: str) -> dict[str, str]:
        settings = self._settings
        environ = {**ONE_MACHINE_DEFAULTS, **self._environ, "REDIS_URL": self._url, "PYTHONUNBUFFERED": "1"}
        environ["MLOC_DURABILITY"] = settings.mloc_durability
        environ["LOG_FILE"] = _log_file_of(settings, name)
        if settings.log_format == "auto" and sys.stderr.isatty():
            environ |= {"LOG_FORMAT": "console", "LOG_COLOR": "always" if settings.log_color == "auto" else settings.log_color}
        if name.startswith("worker"):
            environ["WORKER_DIR"] = settings.worker_dir or str(settings.state_dir / "workers" / name)
            if self._workers > 1 and settings.worker_id:
                environ["WORKER_ID"] = f"{settings.worker_id}-{name.partition('-')[2]}"
            if self._workers > 1 and settings.worker_dir:
                environ["WORKER_DIR"] = str(Path(settings.worker_dir) / name)
        return environ

    def _record_start(self, name: str, pid: int) -> None:
        self._pids[name] = pid
        record = UpRecord(
            pid=os.getpid(), started=process_start(os.getpid()), event_log=self._url, api=self._api_url(),
            results=str(self._results_folder()), services=dict(self._pids),
        )  # fmt: skip
        write_up_record(self._settings.state_dir, record)

    def _results_folder(self) -> Path:
        settings = self._settings
        return Path(settings.orchestrator_results_dir or settings.results_dir or ONE_MACHINE_DEFAULTS["RESULTS_DIR"]).resolve()

    def _api_url(self) -> str:
        host = "127.0.0.1" if self._host in ("0.0.0.0", "::", "localhost") else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    async def _greet_when_ready(self, position: str) -> None:
        """One line when the API answers, every worker registered and nothing keeps ending; before that, now and then what is missing."""
        clock = asyncio.get_running_loop().time
        remind = clock() + REMIND_SEC
        registered = asyncio.create_task(until_registered(self._url, self._settings.mloc_namespace, position, self._workers))
        while missing := await self._missing(registered.done()):
            if clock() > remind:
                _log.info(f"still waiting for {' and '.join(missing)}")
                remind += REMIND_SEC
            await asyncio.sleep(0.05)
        for child in self._children:
            child.gives_up = False
        print(f"MLOC is up: API {self._api_url()}, console: mloc-console, stop: ctrl-C", flush=True)

    async def _missing(self, registered: bool) -> list[str]:
        missing = [f"{child.name} to run" for child in self._children if not child.settled]
        missing += [] if registered else ["the workers to register"]
        if missing:
            return missing
        answers = await healthy_pid(self._host, self._port)
        if answers == self._pids.get("intake-api"):
            return []
        return ["the API to answer" if answers is None else f"the API to answer: on port {self._port} another process does (set PORT to another one)"]

    async def _stop_all(self) -> None:
        first = [child for child in self._children if child.name.startswith(STOPPED_FIRST)]
        for wave in (first, [child for child in self._children if child not in first]):
            for child in wave:
                child.stop()
            while still := [child.name for child in wave if child.runs]:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(_until_ended(wave), REMIND_SEC)
                    break
                _log.info(f"waiting for {', '.join(still)} to finish; ctrl-C again ends everything at once")
        if self._server is not None:
            await self._server.stop()
        if self._pids:
            forget_up_record(self._settings.state_dir)

    def _stop_requested(self, _number: signal.Signals) -> None:
        _log.info("stopping; again (ctrl-C) ends everything at once")
        if self._server is not None and not self._children:  # it may be loading a long log
            self._server.terminate()

    def _end_at_once(self) -> None:
        for child in self._children:
            child.kill()
        if self._server is not None:
            self._server.terminate()
        forget_up_record(self._settings.state_dir)


def with_fast_durability(settings: Settings) -> Settings:
    return structs.replace(settings, mloc_durability="fast")


def _check_port_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(f"the API cannot listen on {host} port {port} ({error.strerror}): set PORT to another one") from error


def _check_results_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SettingsError(f"RESULTS_DIR={folder} cannot be written ({error.strerror}): choose another folder") from error


def _log_file_of(settings: Settings, name: str) -> str:
    """A log file for each child, also where LOG_FILE names one file: two processes must not turn over the same file."""
    text = settings.log_file
    if text is None:
        return str(settings.state_dir / "logs" / f"{name}.log")
    if text.lower() == "off" or "{service}" in text or text.endswith("/") or Path(text).is_dir():
        return text.replace("{service}", name) if not text.endswith("/") else f"{text}{name}.log"
    path = Path(text)
    return str(path.with_name(f"{path.stem}-{name}{path.suffix}"))


async def _until_ended(children: list[ChildService]) -> None:
    while any(child.runs for child in children):
        await asyncio.sleep(0.02)
