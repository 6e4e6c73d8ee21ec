"""A worker whose results folder nobody else sees, in a small world that the test drives."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from worker_world import World

from mloc.core.host_frames import RunTask
from mloc.services.clock import SystemClock
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.results.results_mark import SharedFolder
from mloc.services.transfers.attempt_files import AttemptFiles
from mloc.services.transfers.input_cache import InputCache
from mloc.services.transfers.input_fetching import InputFetcher
from mloc.services.transfers.remote_files import RemoteFiles
from mloc.services.transfers.results_api import ApiAddress
from mloc.services.transfers.transfers import Transfers
from tests.services.transfers.file_server import FileServer

TASKS = "api/v1/tasks"


class FarWorld(World):
    """Its results folder is not the aggregator's, and its API is the test's server."""

    def __init__(self, folder: Path, server: FileServer | None) -> None:
        log = MemoryServer(lambda: int(time.time() * 1000))
        super().__init__(lambda: MemoryLog(log), folder / "results", obedient=False)
        self.folder.mkdir()
        api = ApiAddress(server.url("").rstrip("/")) if server is not None else None
        cache = InputCache(folder / "cache", 1 << 30)
        cache.open()
        clock = SystemClock()
        inputs = InputFetcher(self.folder, RemoteFiles(cache, clock, api), clock)
        files = AttemptFiles(api, clock, patience_sec=1.0) if api is not None else None
        self.transfers = Transfers(self.folder, SharedFolder(self.folder, self.connect(), clock), inputs, files, clock)

    async def run_frame(self, task: str) -> RunTask:
        """What a host was given to run this task."""
        await self.until_true(lambda: any(task in host.tasks for host in self.launcher.heavy))
        return next(frame for host in self.launcher.heavy for frame in host.frames if isinstance(frame, RunTask) and frame.task == task)

    def host_of(self, task: str) -> Any:
        return next(host for host in self.launcher.heavy if task in host.tasks)

    async def one(self, type_: str) -> Any:
        await self.until_types(type_)
        return (await self.events(type_))[0]


async def far_world(folder: Path, server: FileServer | None) -> FarWorld:
    world = FarWorld(folder, server)
    await world.truth.set_results_mark("of-another-folder", "/of/the/api")
    await world.start()
    await world.registered()
    return world
