"""The scheduler: the only writer of dispatches, retries, losses, time-outs, cancellations, stops and recalls."""

from __future__ import annotations

import asyncio

from mloc.core.cluster import Cluster
from mloc.core.codec import UnknownEvent
from mloc.core.decisions import scheduling
from mloc.core.decisions.scheduling import Limits
from mloc.core.events import Event, WorkerRegistered
from mloc.services.clock import SystemClock
from mloc.services.log.event_log import Entry, EventLog
from mloc.services.service_loop import IDLE_BLOCK_MS, ServiceLoop
from mloc.services.service_run import holder, run_service, snapshots_of
from mloc.services.settings import Settings

HEARTBEAT_READ_MS = 500


class Scheduler:
    """Adds liveness to the fold: each worker's last sign of life, by the server's clock, as far as this leader has seen it."""

    name = "scheduler"

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seen_ms: dict[str, int] = {}
        self._heartbeats_after = ""
        self._read_at_ms = 0
        self._now_ms = 0

    def started(self, cluster: Cluster, now_ms: int) -> None:
        """Nobody is declared lost for what happened before: every liveness clock starts now."""
        self._now_ms = now_ms
        self._seen_ms = dict.fromkeys(cluster.workers, now_ms)
        self._heartbeats_after = f"{max(0, now_ms - 1)}-0"
        self._read_at_ms = now_ms

    def folded(self, cluster: Cluster, entry: Entry, event: Event | UnknownEvent) -> None:
        if isinstance(event, WorkerRegistered):
            self._seen_ms[event.worker] = max(self._now_ms, self._seen_ms.get(event.worker, 0))

    async def before_deciding(self, log: EventLog, now_ms: int) -> None:
        self._now_ms = now_ms
        if now_ms - self._read_at_ms < HEARTBEAT_READ_MS:
            return
        self._read_at_ms = now_ms
        for id, beat in await log.read_heartbeats(self._heartbeats_after):
            self._heartbeats_after = id
            self._seen_ms[beat.worker] = max(now_ms, self._seen_ms.get(beat.worker, 0))

    def decide(self, cluster: Cluster, now_ms: int) -> list[Event]:
        return scheduling.decide(cluster, now_ms, self._seen_ms, self._limits)

    def block_ms(self, cluster: Cluster, now_ms: int) -> int:
        """Until the next back-off or time-out is due, at most a second (half of one while workers are to be watched)."""
        longest = HEARTBEAT_READ_MS if cluster.workers else IDLE_BLOCK_MS
        due = cluster.next_due_ms()
        return longest if due is None else max(1, min(longest, due - now_ms))


def limits_of(settings: Settings) -> Limits:
    """What decisions are bounded by, as the settings have it."""
    return Limits(
        heartbeat_ttl_ms=int(settings.heartbeat_ttl_sec * 1000), grace_sec=settings.stop_grace_sec, dispatch_policy=settings.dispatch_policy
    )  # fmt: skip


def run(settings: Settings) -> int:
    """The service's process; gives the exit code."""
    limits = limits_of(settings)

    async def serve(log: EventLog, stop: asyncio.Event) -> None:
        scheduler = Scheduler(limits)
        await ServiceLoop(log, SystemClock(), scheduler, holder(), stop=stop, snapshots=snapshots_of(settings, scheduler.name)).run()

    return run_service(settings, Scheduler.name, serve)
