"""The aggregator: publishes results, merges shards; the only writer of the result tree.

A small result is published as soon as the log shows it, and its tree is written right after. A result with files is moved into place, and
shards are merged, by effects off the loop; their publication follows.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import cast

from mloc.core import log_ids
from mloc.core.cluster import Cluster
from mloc.core.codec import UnknownEvent
from mloc.core.decisions import aggregation
from mloc.core.events import Event, ResultPublished, TaskCancelled, TaskDeadLettered, TaskSubmitted, TaskTimedOut
from mloc.services.callbacks.callbacks import CLOSING, Callbacks, Policy
from mloc.services.clock import Clock, SystemClock
from mloc.services.log.connection import open_log
from mloc.services.log.event_log import Entry, EventLog
from mloc.services.results.effects import Effects
from mloc.services.results.results_mark import MarkKeeper
from mloc.services.results.tree_cursor import TreeCursor, cursor_path
from mloc.services.results.tree_fold import TYPES, matters
from mloc.services.results.tree_projection import TreeProjection
from mloc.services.results.writer_link import WriterProcess
from mloc.services.retention.expiry import Expiry
from mloc.services.service_loop import IDLE_BLOCK_MS, ServiceLoop
from mloc.services.service_run import holder, run_service, snapshots_of
from mloc.services.settings import Settings, allowed_variables, read_environment

_FAILURES = {TaskDeadLettered: "dead_lettered", TaskCancelled: "cancelled", TaskTimedOut: "timed_out"}
_FEEDING = frozenset(TYPES.values()) - _FAILURES.keys()


class Aggregator:
    """Decides what is published; asks for effects and feeds the trees. Without `trees` it only publishes (a simulation)."""

    name = "aggregator"

    def __init__(
        self, effects: Effects, trees: TreeProjection | None = None, callbacks: Callbacks | None = None, expiry: Expiry | None = None
    ) -> None:
        self._effects = effects
        self._trees = trees
        self._callbacks = callbacks
        self._expiry = expiry

    def decide(self, cluster: Cluster, now_ms: int) -> list[Event]:
        events, effects = aggregation.decide(cluster, self._effects.done)
        if effects:
            self._effects.ask(cluster, effects)
        if self._callbacks is not None:
            events += self._callbacks.decide(cluster, now_ms)
        if self._expiry is not None:
            events += self._expiry.decide(cluster, now_ms)
        return events

    def started(self, cluster: Cluster, now_ms: int) -> None:
        return None

    def folded(self, cluster: Cluster, entry: Entry, event: Event | UnknownEvent) -> None:
        kind = type(event)
        if kind is ResultPublished:
            self._effects.forget(event.task, event.attempt)  # type: ignore[union-attr]
        if self._callbacks is not None and kind in CLOSING:
            self._callbacks.folded(cluster, cast(Event, event))
        if self._trees is None or isinstance(event, UnknownEvent):
            return
        if isinstance(event, TaskSubmitted) and not matters(event):
            return
        if kind in _FEEDING or (kind in _FAILURES and _took_effect(cluster, event)):
            self._trees.feed(entry.id, event)

    async def before_deciding(self, log: EventLog, now_ms: int) -> None:
        return None

    def block_ms(self, cluster: Cluster, now_ms: int) -> int:
        """Until a receiver is to be called again, at most a second; calls under way wake the loop when they end."""
        due = cluster.calls.next_due_ms()
        return IDLE_BLOCK_MS if due is None or due <= now_ms else min(IDLE_BLOCK_MS, due - now_ms)


def policy_of(settings: Settings) -> Policy:
    """How receivers are called."""
    return Policy(
        settings.callback_allowed_hosts, settings.callback_timeout_sec, settings.callback_tries, settings.callback_backlog,
        base_url=settings.orchestrator_base_url or "", variables=allowed_variables(settings, read_environment()),
    )  # fmt: skip


def run(settings: Settings) -> int:
    """The service's process; gives the exit code."""

    async def serve(log: EventLog, stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            await _serve(settings, SystemClock(), log, stop, stack)

    return run_service(settings, Aggregator.name, serve)


async def _serve(settings: Settings, clock: Clock, log: EventLog, stop: asyncio.Event, stack: AsyncExitStack) -> None:
    reading = open_log(settings, "aggregator-trees")  # apart from the loop's, so that a change of servers is noticed by both
    stack.push_async_callback(reading.close)
    quick, slow = WriterProcess(settings.host_results_dir), WriterProcess(settings.host_results_dir)
    stack.push_async_callback(quick.close)
    stack.push_async_callback(slow.close)
    effects = Effects(reading, clock, slow, lambda: loop.wake.set())
    stack.push_async_callback(effects.close)
    callbacks = Callbacks(reading, settings.host_results_dir, policy_of(settings), lambda: loop.wake.set())
    stack.push_async_callback(callbacks.close)
    trees = TreeProjection(
        reading, clock, TreeCursor(cursor_path(settings.state_dir)), quick, slow,
        position=lambda: loop.cluster.position, versions_of=lambda worker: _versions(loop.cluster, worker),
        allowed_roots=settings.allowed_output_roots,
    )  # fmt: skip
    expiry = Expiry(settings.host_results_dir, lambda: log_ids.time_ms(trees.state.written), lambda: loop.wake.set())
    stack.push_async_callback(expiry.close)
    loop = ServiceLoop(
        log, clock, Aggregator(effects, trees, callbacks, expiry), holder(), stop=stop, snapshots=snapshots_of(settings, Aggregator.name)
    )
    mark = asyncio.create_task(MarkKeeper(settings.host_results_dir, reading, clock).run())
    stack.callback(mark.cancel)
    await _both(loop, trees, stop)


async def _both(loop: ServiceLoop, trees: TreeProjection, stop: asyncio.Event) -> None:
    """The end of one, whatever its reason, is the end of the other: trees are written to the end of what the loop folded."""
    loop_ended = asyncio.Event()

    async def loop_run() -> None:
        try:
            await loop.run()
        finally:
            loop_ended.set()

    tasks = [asyncio.create_task(loop_run()), asyncio.create_task(trees.run(loop_ended))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        stop.set()
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _took_effect(cluster: Cluster, event: Event) -> bool:
    """Whether a failure is the outcome of its task now; a void one gets no tree."""
    task = cluster.tasks.get(event.task)  # type: ignore[attr-defined]
    return task is not None and task.phase == _FAILURES[type(event)]


def _versions(cluster: Cluster, worker: str) -> dict[str, str]:
    known = cluster.workers.get(worker)
    return known.versions if known is not None else {}
