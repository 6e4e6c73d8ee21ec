"""What the routes of the API share: the log, the fold that answers reads, the way in for writes."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from aiohttp import web

from mloc.core.cluster import Cluster
from mloc.core.task import Task
from mloc.services.artifacts.store import Store
from mloc.services.artifacts.uploading import Uploading
from mloc.services.clock import SystemClock
from mloc.services.intake.heartbeats import Heartbeats
from mloc.services.intake.http.responses import not_found
from mloc.services.intake.streams.event_tail import EventTail
from mloc.services.intake.streams.telemetry_tail import TelemetryTail
from mloc.services.intake.submission import ModelDefaults
from mloc.services.intake.submitter import Submitter
from mloc.services.intake.task_ids import TaskIds
from mloc.services.log.event_log import EventLog
from mloc.services.observer import Observer
from mloc.services.read_model.schema import read_model_path
from mloc.services.read_model.task_index import TaskIndex
from mloc.services.settings import Settings

READ_OWN_WRITES_SEC = 2.0


class ApiState:
    """`observer.follow` runs beside the server."""

    def __init__(self, settings: Settings, log: EventLog, observer: Observer) -> None:
        self.settings = settings
        self.results_dir = settings.host_results_dir
        self.folder = Path.cwd()  # where relative paths of a submission start
        self.log = log
        self.observer = observer
        self.index = TaskIndex(observer, log, read_model_path(settings.state_dir))
        self.submitter = Submitter(log, SystemClock(), settings.backlog_limit)
        self.heartbeats = Heartbeats(log)
        self.events = EventTail(log, observer)
        self.lines = TelemetryTail(log)
        self.uploading = Uploading(Store(settings.host_results_dir, settings.min_free_disk), settings.upload_max_bytes)
        self.ids = TaskIds(time.time, secrets.randbelow)
        self.defaults = ModelDefaults(settings.vllm_model or "", settings.ppo_model or "")

    def close_streams(self) -> None:
        """Those who follow end their answers, and may go on elsewhere."""
        self.events.close()
        self.lines.close()

    @property
    def cluster(self) -> Cluster:
        return self.observer.cluster

    async def task(self, id: str) -> Task:
        """The task; one that was submitted a moment ago is waited for. Raises ApiError 404, LogUnavailable."""
        task = self.index.get(id)
        if task is None:
            await self.reach_end()
            task = self.index.get(id)
        if task is None:
            raise not_found("task", id)
        return task

    async def reach_end(self) -> None:
        """Wait until what anybody wrote before this moment is folded: who submitted a task finds it in the next list. Raises LogUnavailable."""
        _, last = await self.log.ends()
        await self.observer.reach(last, READ_OWN_WRITES_SEC)


STATE = web.AppKey("state", ApiState)
OPENAPI = web.AppKey("openapi", bytes)  # the document of openapi.json


def state_of(request: web.Request) -> ApiState:
    return request.app[STATE]
