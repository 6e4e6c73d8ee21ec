"""`mloc mirror`: a process of its own, so that neither the store nor its libraries can hold up anything else. It runs beside the aggregator."""

from __future__ import annotations

import asyncio
import sys

import structlog

from mloc.services.clock import SystemClock
from mloc.services.exit_codes import MISCONFIGURED
from mloc.services.log.event_log import EventLog
from mloc.services.mirror.mirror import Mirror
from mloc.services.mirror.object_store import NoSuchStore, ObjectStore
from mloc.services.results.tree_cursor import cursor_path
from mloc.services.service_run import run_service
from mloc.services.settings import Settings

NAME = "mirror"


def run(settings: Settings) -> int:
    """Until a signal stops it; gives the exit code."""
    url = settings.results_mirror
    if not url:
        print("mloc mirror: set RESULTS_MIRROR to where results are copied, such as s3://bucket/folder", file=sys.stderr)
        return MISCONFIGURED
    try:
        store = ObjectStore(url)
    except NoSuchStore as error:
        print(f"mloc mirror: RESULTS_MIRROR: {error}", file=sys.stderr)
        return MISCONFIGURED

    async def serve(log: EventLog, stop: asyncio.Event) -> None:
        mirror = Mirror(log, SystemClock(), store, url, settings.host_results_dir, settings.state_dir, cursor_path(settings.state_dir))
        structlog.get_logger().bind(service=NAME).info("results are copied to object storage", url=url)
        await mirror.run(stop)

    return run_service(settings, NAME, serve)
