"""MLOC as `mloc up` starts it: scheduler, aggregator, metrics, API and workers as processes of their own, with their default settings.

The client is this process: it takes the way of a submission through intake from the plain spec on (the YAML text is measured apart): the
spec is checked against the language, becomes events, and goes into the log; then it follows the log until each task's result is published,
and compares the result with what it sent.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from measuring import free_port
from world import World

from contestants.contestant import Contestant
from mloc.core import codec
from mloc.core.cluster import Cluster
from mloc.core.events import AttemptSucceeded, ResultPublished, TaskSubmitted
from mloc.core.language.expansion import expand
from mloc.core.language.plan import Plan
from mloc.core.language.spec import Metadata
from mloc.core.language.stages import Surroundings
from mloc.services.command_line import SERVICES
from mloc.services.intake.known_tasks import KnownTasks
from mloc.services.intake.submission import ModelDefaults, submission_of
from mloc.services.intake.task_ids import TaskIds
from mloc.services.log.redis_log import RedisLog
from mloc.services.up.supervision import CORE_SERVICES, ONE_MACHINE_DEFAULTS

BATCH = 256
TREES_SEC = 60.0
TMPFS = Path("/dev/shm")

_decode = msgspec.json.Decoder().decode


class MlocSpine(Contestant):
    """`mloc-ext4` has its result trees beside the state, the others on tmpfs."""

    submits_batches = True

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self._world = world
        on_disk = name == "mloc-ext4" or not os.access(TMPFS, os.W_OK)
        self._results = world.folder / "results" if on_disk else Path(tempfile.gettempdir(), TMPFS, f"mloc-{world.folder.name}")
        self._sent: dict[str, str] = {}
        self._results_read: set[str] = set()

    async def open(self) -> None:
        self.log = RedisLog(self._world.url)
        self._ids = TaskIds(time.time, secrets.randbelow)
        self._known = KnownTasks(Cluster(), self._results)
        self._position = (await self.log.ends())[1]

    async def start(self, workers: int, *, one_at_a_time: bool = False) -> None:
        for service in CORE_SERVICES:
            if importlib.util.find_spec(SERVICES[service][0]) is not None:
                self._launch(service, service)
        for number in range(1, workers + 1):
            self._launch(f"worker-{number}", "worker")
        await self._until_registered(workers)
        if one_at_a_time:
            await self._echo([("warm", 20)])
        await self.one("warm")

    def restart_worker(self) -> None:
        self._launch("worker-1", "worker")

    def _launch(self, name: str, service: str) -> None:
        state = self._world.state_dir
        environ = {
            **ONE_MACHINE_DEFAULTS, "REDIS_URL": self._world.url, "ORCHESTRATOR_STATE_DIR": str(state), "RESULTS_DIR": str(self._results),
            "WORKER_DIR": str(state / "workers" / name), "LOG_FILE": str(state / "logs" / f"{name}.log"), "PORT": str(free_port()),
        }  # fmt: skip
        self._world.launch(name, ["-m", "mloc.services.command_line", service], environ)

    async def _until_registered(self, workers: int) -> None:
        seen = 0
        while seen < workers:
            for entry in await self._read():
                seen += entry.type == "WorkerRegistered"

    # --- the client ---

    async def submit_one_by_one(self, payloads: Sequence[str]) -> None:
        for payload in payloads:
            await self.log.submit(self._events(payload, 0))

    async def submit_batches(self, payloads: Sequence[str]) -> None:
        for first in range(0, len(payloads), BATCH):
            await self.log.submit_each([self._events(payload, 0) for payload in payloads[first : first + BATCH]])

    async def end_to_end(self, payloads: Sequence[str], sleep_ms: int = 0) -> None:
        await self._echo([(payload, sleep_ms) for payload in payloads])

    async def one(self, payload: str) -> None:
        await self._echo([(payload, 0)])

    async def _echo(self, tasks: Sequence[tuple[str, int]]) -> None:
        """Submit and read at the same time."""
        reading = asyncio.create_task(self._until_published(len(tasks)))
        for first in range(0, len(tasks), BATCH):
            await self.log.submit_each([self._events(*task) for task in tasks[first : first + BATCH]])
        await reading

    def _events(self, payload: str, sleep_ms: int) -> Sequence[TaskSubmitted]:
        """One task, checked, as intake logs it."""
        submission = submission_of([_plan(payload, sleep_ms)], new_id=self._ids.new, known=self._known, defaults=ModelDefaults())
        self._sent[submission.events[0].task] = payload
        return submission.events

    async def _until_published(self, count: int) -> None:
        published = 0
        while published < count:
            for entry in await self._read():
                if entry.type == "AttemptSucceeded":
                    self._compare(codec.decode(entry.type, entry.payload))
                elif entry.type == "ResultPublished":
                    event = codec.decode(entry.type, entry.payload)
                    assert isinstance(event, ResultPublished)
                    published += event.task in self._results_read
                    self._results_read.discard(event.task)

    def _compare(self, event: Any) -> None:
        assert isinstance(event, AttemptSucceeded)
        if (sent := self._sent.pop(event.task, None)) is not None:
            assert _decode(event.result)["items"][0]["output"] == sent
            self._results_read.add(event.task)

    async def _read(self) -> list[Any]:
        entries = await self.log.read(self._position, block_ms=1000)
        if entries:
            self._position = entries[-1].id
        else:
            self._world.check()
        return entries

    async def afterwards(self, tasks: int) -> dict[str, float]:
        """How long after the last result the last tree was written."""
        began = time.monotonic()
        while (written := _complete(self._results)) < tasks and time.monotonic() < began + TREES_SEC:
            await asyncio.sleep(0.02)
        return {"trees_late_sec": round(time.monotonic() - began, 3), "trees": written}

    async def close(self) -> None:
        await self.log.close()
        if TMPFS in self._results.parents:
            shutil.rmtree(self._results, ignore_errors=True)


def _plan(payload: str, sleep_ms: int) -> Plan:
    """What intake makes of one document, checked as a file's would be."""
    spec: dict[str, Any] = {"taskType": "echo", "data": {"type": "list", "items": [payload]}}
    if sleep_ms:
        spec["echo"] = {"sleep_sec": sleep_ms / 1000}
    return Plan("Task", Metadata(name="echo"), expand(spec, _SURROUNDINGS))


def _no_findings(findings: Any, written: Any) -> None:
    assert not findings.problems, findings.problems


_SURROUNDINGS = Surroundings("Task", "echo", frozenset(), False, lambda path: True, _no_findings)


def _complete(results: Path) -> int:
    """Trees that are there."""
    return sum(1 for name in os.listdir(results) if not name.startswith(".")) if results.is_dir() else 0
