"""A worker as a real process with real hosts on a real server, killed and stopped in every way. The tests are its scheduler."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from mloc.core import codec
from mloc.core.answers import Answer, Dispatch
from mloc.core.events import AttemptStopRequested, TaskDispatched, WorkerLost
from mloc.services.exit_codes import UNAVAILABLE
from mloc.services.log.event_log import Lease, LogUnavailable
from mloc.services.log.redis_log import RedisLog
from tests.log_server import LogServer

DEADLINE_SEC = 30


class Driver:
    """Sends dispatches and stops as the scheduler would, and waits for what the worker answers."""

    def __init__(self, log: RedisLog) -> None:
        self.log = log
        self._lease: Lease | None = None
        self._commit_no = 0

    async def send(self, *answers: Answer) -> None:
        if self._lease is None:
            self._lease = await self.log.lease("scheduler", "test")
            self._commit_no = self._lease.commit_no
        await self.log.commit("scheduler", self._lease.epoch, self._commit_no, "0-0", list(answers))
        self._commit_no += 1

    async def dispatch(self, task: str, *, incarnation: int = 1, attempt: int = 1, light: bool = False, **echo: Any) -> None:
        spec = {"taskType": "echo", "data": {"type": "list", "items": ["hello"]}, "echo": echo}
        event = TaskDispatched(task=task, attempt=attempt, worker="w1", incarnation=incarnation)
        await self.send(Answer(event, ("w1", incarnation), msgspec.json.encode(Dispatch("echo", Raw(msgspec.json.encode(spec)), light))))

    async def stop(self, task: str, grace_sec: float) -> None:
        event = AttemptStopRequested(task=task, attempt=1, worker="w1", incarnation=1, reason="cancelled", grace_sec=grace_sec)
        await self.send(Answer(event, ("w1", 1)))

    async def events(self) -> list[Any]:
        await self.log.run_id()
        events: list[Any] = []
        after = "0-0"
        while entries := await self.log.read(after):
            after = entries[-1].id
            events += [codec.decode(entry.type, entry.payload) for entry in entries]
        return events

    async def until(self, type_: str, count: int = 1, seconds: float = DEADLINE_SEC, **fields: Any) -> list[Any]:
        """Wait for `count` events of this type with these fields; gives them."""
        async with asyncio.timeout(seconds):
            while True:
                with contextlib.suppress(LogUnavailable):  # the server was killed on purpose
                    events = [event for event in await self.events() if type(event).__name__ == type_]
                    found = [event for event in events if all(getattr(event, name) == value for name, value in fields.items())]
                    if len(found) >= count:
                        return found
                await asyncio.sleep(0.01)


@pytest.fixture
async def driver(redis_log: RedisLog) -> Driver:
    return Driver(redis_log)


class WorkerProcess:
    """One worker process and the folders that outlive it."""

    def __init__(self, url: str, namespace: str, folder: Path) -> None:
        self.results = folder / "results"
        self._output = folder / "output"
        self._environ = {
            **os.environ, "REDIS_URL": url, "MLOC_NAMESPACE": namespace, "WORKER_ID": "w1", "WORKER_DIR": str(folder / "worker"),
            "RESULTS_DIR": str(self.results), "LOG_FILE": "off", "LOG_FORMAT": "json", "HEARTBEAT_INTERVAL_SEC": "0.2",
            "HEARTBEAT_TTL_SEC": "5", "TASK_TOPICS": "echo", "WORKER_DRAIN_SEC": "20", "STOP_GRACE_SEC": "1",
        }  # fmt: skip
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, **environ: str) -> subprocess.Popen[bytes]:
        with self._output.open("ab") as output:
            command = [sys.executable, "-m", "mloc.services.command_line", "worker"]
            self._started.append(subprocess.Popen(command, env={**self._environ, **environ}, stdout=output, stderr=output))
        return self._started[-1]

    def output(self) -> str:
        return self._output.read_text()

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait(DEADLINE_SEC)


@pytest.fixture
def worker(valkey_url: str, namespace: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    process = WorkerProcess(valkey_url, namespace, tmp_path)
    yield process
    process.close()


def descendants(pid: int) -> list[int]:
    """Pids of all processes below this one, hosts and their guards."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [one for child in children for one in (child, *descendants(child))]


def living(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"]


async def until_true(condition: Callable[[], Any], seconds: float = DEADLINE_SEC) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def ended(process: subprocess.Popen[bytes]) -> int:
    await until_true(lambda: process.poll() is not None)
    return process.returncode


async def test_a_worker_whose_password_is_wrong_ends_with_a_sentence(worker: WorkerProcess, valkey_url: str) -> None:
    refused = valkey_url + ("&" if "?" in valkey_url else "?") + "username=nobody&password=wrong"
    assert await ended(worker.start(REDIS_URL=refused)) == UNAVAILABLE
    assert "refuses user or password" in worker.output()
    assert "Traceback" not in worker.output()


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


async def test_light_and_other_tasks_give_their_results_through_the_log(worker: WorkerProcess, driver: Driver) -> None:
    worker.start()
    await driver.until("WorkerRegistered")
    for number in range(20):
        await driver.dispatch(f"light{number}", light=True)
    await driver.dispatch("heavy", sleep_sec=0.05)
    succeeded = await driver.until("AttemptSucceeded", 21)
    assert {event.task for event in succeeded} == {"heavy", *(f"light{number}" for number in range(20))}
    assert all(msgspec.json.decode(event.result)["items"][0]["output"] == "hello" for event in succeeded)


async def test_what_a_task_says_on_the_way_is_in_its_telemetry(worker: WorkerProcess, driver: Driver) -> None:
    worker.start()
    await driver.until("WorkerRegistered")
    await driver.dispatch("talks", sleep_sec=0.3)
    await driver.until("AttemptSucceeded")
    async with asyncio.timeout(DEADLINE_SEC):
        while not (points := await driver.log.read_telemetry("talks", "0-0")):
            await asyncio.sleep(0.02)
    assert all(point.attempt == 1 for _, point in points)
    assert any(point.line or point.step or point.metrics for _, point in points)


@linux_only
async def test_a_killed_worker_leaves_no_host_behind_and_goes_on_under_its_name(worker: WorkerProcess, driver: Driver) -> None:
    process = worker.start()
    await driver.until("WorkerRegistered")
    await driver.dispatch("long", sleep_sec=60)
    await driver.until("AttemptStarted")
    await until_true(lambda: len(descendants(process.pid)) >= 4)  # two hosts, each with its guard
    hosts = descendants(process.pid)
    process.kill()
    process.wait(DEADLINE_SEC)
    worker.start()
    (again,) = await driver.until("WorkerRegistered", incarnation=2)
    assert living(hosts) == []
    assert again.attempts == ()
    await driver.dispatch("next", incarnation=2, sleep_sec=0.01)
    await driver.until("AttemptSucceeded", task="next")
    assert [event.task for event in await driver.until("AttemptStarted", 2)] == ["long", "next"]


@linux_only
async def test_hosts_die_with_their_worker_also_when_it_never_comes_back(worker: WorkerProcess, driver: Driver) -> None:
    process = worker.start()
    await driver.until("WorkerRegistered")
    await driver.dispatch("long", sleep_sec=60)
    await driver.until("AttemptStarted")
    await until_true(lambda: len(descendants(process.pid)) >= 4)
    hosts = descendants(process.pid)
    process.kill()
    process.wait(DEADLINE_SEC)
    await until_true(lambda: not living(hosts), seconds=10)


async def test_a_task_that_takes_its_host_down_fails_and_the_next_one_runs(worker: WorkerProcess, driver: Driver) -> None:
    worker.start()
    await driver.until("WorkerRegistered")
    await driver.dispatch("bad", crash=True)
    await driver.dispatch("good", sleep_sec=0.01)
    (failed,) = await driver.until("AttemptFailed")
    assert failed.task == "bad"
    assert failed.error.retryable
    assert "SIG" in failed.error.message
    await driver.until("AttemptSucceeded", task="good")


async def test_a_running_task_stops_cleanly_and_one_that_does_not_listen_is_killed(worker: WorkerProcess, driver: Driver) -> None:
    worker.start()
    await driver.until("WorkerRegistered")
    await driver.dispatch("polite", sleep_sec=60)
    await driver.until("AttemptStarted", task="polite")
    await driver.stop("polite", grace_sec=20)
    await driver.until("AttemptStopped", task="polite", seconds=15)
    await driver.dispatch("deaf", sleep_sec=60, ignore_stop=True)
    await driver.until("AttemptStarted", task="deaf")
    await driver.stop("deaf", grace_sec=0.2)
    await driver.until("AttemptStopped", task="deaf")
    await driver.dispatch("after", sleep_sec=0.01)
    await driver.until("AttemptSucceeded", task="after")


@linux_only
async def test_sigterm_lets_what_runs_end_and_leaves_nothing_behind(worker: WorkerProcess, driver: Driver) -> None:
    process = worker.start()
    await driver.until("WorkerRegistered")
    await driver.dispatch("runs", sleep_sec=2)
    await driver.until("AttemptStarted")
    await driver.dispatch("waits", sleep_sec=60)
    hosts = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 0
    assert (await driver.until("AttemptSucceeded"))[0].task == "runs"
    assert [event.task for event in await driver.until("AttemptStarted")] == ["runs"]
    await driver.until("WorkerRetired")
    await until_true(lambda: not living(hosts), seconds=5)


async def test_a_second_signal_ends_a_worker_at_once(worker: WorkerProcess, driver: Driver) -> None:
    process = worker.start(WORKER_DRAIN_SEC="60")
    await driver.until("WorkerRegistered")
    await driver.dispatch("long", sleep_sec=60)
    await driver.until("AttemptStarted")
    process.send_signal(signal.SIGTERM)
    await driver.until("WorkerRegistered", incarnation=2)
    before = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 128 + signal.SIGTERM
    assert time.monotonic() - before < 5


async def test_a_second_worker_with_the_same_name_and_folder_is_told_what_to_do(worker: WorkerProcess, driver: Driver) -> None:
    worker.start()
    await driver.until("WorkerRegistered")
    assert await ended(worker.start()) == 78
    assert "WORKER_ID" in worker.output()
    assert "Traceback" not in worker.output()


async def test_a_worker_asked_for_types_that_cannot_run_says_which_can(worker: WorkerProcess) -> None:
    assert await ended(worker.start(TASK_TOPICS="no_such_type")) == 78
    assert "no_such_type" in worker.output()
    assert "echo" in worker.output()
    assert "Traceback" not in worker.output()


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[LogServer]:
    """A server that the test may kill; what it acknowledged is on disk."""
    server = LogServer(durability="always")
    server.start()
    yield server
    server.close()


async def test_a_task_outlives_a_killed_server_and_its_worker_registers_under_the_new_run(own_server: LogServer, tmp_path: Path) -> None:
    worker = WorkerProcess(own_server.url, "mloc", tmp_path)
    log = RedisLog(own_server.url)
    try:
        driver = Driver(log)
        worker.start()
        (first,) = await driver.until("WorkerRegistered")
        await driver.dispatch("long", sleep_sec=2.0)
        await driver.until("AttemptStarted")
        own_server.restart()
        (second,) = await driver.until("WorkerRegistered", incarnation=2)
        assert second.run_id != first.run_id
        assert [held.task for held in second.attempts] == ["long"]
        (succeeded,) = await driver.until("AttemptSucceeded")
        assert (succeeded.task, succeeded.incarnation) == ("long", 2)
    finally:
        worker.close()
        await log.close()


async def test_a_paused_worker_that_was_declared_lost_comes_back_with_what_it_runs(worker: WorkerProcess, driver: Driver) -> None:
    process = worker.start()
    await driver.until("WorkerRegistered")
    await driver.dispatch("long", sleep_sec=3)
    await driver.until("AttemptStarted")
    process.send_signal(signal.SIGSTOP)
    await driver.send(Answer(WorkerLost(worker="w1", incarnation=1, silent_ms=5000)))
    process.send_signal(signal.SIGCONT)
    (again,) = await driver.until("WorkerRegistered", incarnation=2)
    assert [held.task for held in again.attempts] == ["long"]
    await driver.until("AttemptSucceeded", task="long")
