"""What every service process of the control plane does around its own work: wait for the log, stop on signals, end with a clear code.

    def run(settings): return run_service(settings, "scheduler", serve)
    async def serve(log, stop): await ServiceLoop(log, …, stop=stop).run()
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable

import structlog

from mloc.services.exit_codes import CLEAN, MISCONFIGURED
from mloc.services.garbage_collection import collect_seldom
from mloc.services.log.cluster_snapshots import ClusterSnapshots
from mloc.services.log.connection import open_log
from mloc.services.log.event_log import EventLog
from mloc.services.server.address import NoServerError, check_reachable, event_log_url
from mloc.services.service_loop import UpgradeNeeded
from mloc.services.settings import Settings
from mloc.services.signals import stop_on_signals

PATIENCE_SEC = 3.0  # a server that is just being started again is worth waiting for
RETRY_SEC = 0.2

Serve = Callable[[EventLog, asyncio.Event], Awaitable[None]]


def run_service(settings: Settings, name: str, serve: Serve) -> int:
    """Until a signal stops it; gives the exit code. Raises NoServerError where no server answers within a few seconds."""
    collect_seldom()
    return asyncio.run(_run(settings, name, serve))


def holder() -> str:
    """This process, as a lease and people name it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def snapshots_of(settings: Settings, name: str) -> ClusterSnapshots:
    """Where the service keeps its state between runs."""
    return ClusterSnapshots(settings.state_dir / "snapshots", name, every_sec=settings.state_flush_interval_sec)


async def _run(settings: Settings, name: str, serve: Serve) -> int:
    say = structlog.get_logger().bind(service=name)
    stop = stop_on_signals(lambda number: say.info("stopping", signal=number.name))
    if not await _server_answers(settings, stop):
        return CLEAN
    log = open_log(settings, name)
    try:
        await serve(log, stop)
    except UpgradeNeeded as error:
        print(f"mloc {name}: {error}", file=sys.stderr)
        return MISCONFIGURED
    finally:
        await log.close()
    say.info("stopped")
    return CLEAN


async def _server_answers(settings: Settings, stop: asyncio.Event) -> bool:
    """False where the service was stopped while it waited. Raises NoServerError."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SEC
    while not stop.is_set():
        try:
            await check_reachable(event_log_url(settings))
            return True
        except NoServerError:
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(RETRY_SEC)
    return False
