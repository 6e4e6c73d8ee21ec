"""One command's view of the cluster: the log, the fold of it, the folder of results."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

from mloc.core.cluster import Cluster
from mloc.core.task import Task
from mloc.services.intake.task_ids import TaskIds
from mloc.services.intake.task_names import task_meant
from mloc.services.log.connection import open_log
from mloc.services.log.event_log import EventLog
from mloc.services.observer import Observer
from mloc.services.read_model.schema import read_model_path
from mloc.services.read_model.task_index import TaskIndex
from mloc.services.service_run import snapshots_of
from mloc.services.settings import Settings
from mloc.services.up.record import read_up_record

PATIENCE_SEC = 3.0


class Session:
    """`cluster` is what `observer` folded so far; commands that show or ask something catch up first."""

    def __init__(self, settings: Settings, log: EventLog) -> None:
        self.settings = settings
        self.log = log
        self.observer = Observer(log, snapshots=snapshots_of(settings, "scheduler"))
        self.index = TaskIndex(self.observer, log, read_model_path(settings.state_dir), follows=False)
        self.ids = TaskIds(time.time, secrets.randbelow)
        self.results_dir = results_dir(settings)
        self._clock_ms = 0  # the server's clock less the own monotonic one

    @property
    def cluster(self) -> Cluster:
        return self.observer.cluster

    async def look_at_clock(self) -> None:
        """Learn the server's clock, for `now_ms`. Raises LogUnavailable."""
        self._clock_ms = await self.log.now_ms() - int(time.monotonic() * 1000)

    def now_ms(self) -> int:
        """The server's time, which the log's times are in."""
        return self._clock_ms + int(time.monotonic() * 1000)

    def task(self, text: str) -> Task:
        """The task of this id, else the newest of this name, else the only one whose id starts so. Raises UnknownTask."""
        return task_meant(text, self.cluster, self.index)

    def family(self, task: Task) -> list[Task]:
        """The task and all its parts, parents first."""
        children = (self.index.get(id) for id in task.children)
        return [task, *(part for child in children if child is not None for part in self.family(child))]


@contextlib.asynccontextmanager
async def opened(settings: Settings, *, catch_up: bool = True) -> AsyncIterator[Session]:
    """A session that has folded the log to its tail. Raises NoServerError, LogUnavailable."""
    log = open_log(settings, "intake", patience_sec=PATIENCE_SEC)
    session = Session(settings, log)
    try:
        if catch_up:
            await session.observer.catch_up()
        yield session
    finally:
        session.index.close()
        await log.close()


def results_dir(settings: Settings) -> Path:
    """Where the `mloc up` of this state folder keeps results, else what the settings say."""
    record = read_up_record(settings.state_dir)
    return Path(record.results) if record is not None else settings.host_results_dir


def user() -> str:
    """Who asks, for the log."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"
