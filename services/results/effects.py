"""The aggregator's work on files: each effect once at a time, tried again until it is done, its end an input of the next `decide`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from mloc.core import codec
from mloc.core.cluster import Cluster
from mloc.core.decisions.aggregation import Done, Effect
from mloc.core.events import AttemptSucceeded, ResultPublished
from mloc.core.task import Task
from mloc.services.clock import Clock
from mloc.services.log.event_log import EventLog, LogError
from mloc.services.results.folders import final_folder
from mloc.services.results.manifest import Origin
from mloc.services.results.merging import Merge, Merged, Part
from mloc.services.results.orders import Failed, Order
from mloc.services.results.origins import wishes_of
from mloc.services.results.publishing import Publish, Published
from mloc.services.results.writer_link import ResultWriter

AT_ONCE = 64  # effects under way; `decide` asks for the others again
FIRST_RETRY_SEC, LONGEST_RETRY_SEC = 0.25, 10.0


class Effects:
    """`done` holds what `decide` has not seen published yet. `log` must not be the one that the service's loop folds."""

    def __init__(self, log: EventLog, clock: Clock, writer: ResultWriter, on_done: Callable[[], None]) -> None:
        self.done: dict[Effect, Done] = {}
        self.failures = 0
        self.stuck: dict[str, str] = {}  # task → why its effect is tried again
        self._log = log
        self._clock = clock
        self._writer = writer
        self._on_done = on_done
        self._running: dict[Effect, asyncio.Task[None]] = {}
        self._say = structlog.get_logger().bind(service="aggregator")

    def ask(self, cluster: Cluster, effects: Iterable[Effect]) -> None:
        """Start those that do not run yet, as far as there is room."""
        for effect in effects:
            if len(self._running) >= AT_ONCE:
                return
            if effect not in self._running:
                task = cluster.tasks[effect.task]
                children = [cluster.tasks[id] for id in task.children] if effect.kind == "merge" else []
                self._running[effect] = asyncio.create_task(self._run(effect, _order_of(cluster, task, children), children))

    def forget(self, task: str, attempt: int) -> None:
        """The task is published."""
        if self.done:
            self.done.pop(Effect("publish", task, attempt), None)
            self.done.pop(Effect("merge", task, 0), None)

    async def close(self) -> None:
        """Stop trying; what is left is asked for again after the next start."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, effect: Effect, order: Publish | Merge, children: list[Task]) -> None:
        delay = FIRST_RETRY_SEC
        try:
            while (end := await self._try(effect, order, children)) is None:
                await self._clock.sleep(delay)
                delay = min(delay * 2, LONGEST_RETRY_SEC)
            self.done[effect] = end
        finally:
            del self._running[effect]
            self.stuck.pop(effect.task, None)
        self._on_done()

    async def _try(self, effect: Effect, order: Publish | Merge, children: list[Task]) -> Done | None:
        try:
            reply = await self._writer.ask(await self._completed(order, children))
        except LogError as error:
            reply = Failed(f"the event log cannot be read: {error}")
        match reply:
            case Published():
                return Done(sha256=reply.sha256, size_bytes=reply.size_bytes, files=True)
            case Merged():
                return Done(reply.result, reply.sha256, reply.size_bytes, reply.files)
            case Failed(reason=reason):
                self.failures += 1
                self.stuck[effect.task] = reason
                self._say.error(f"the {effect.kind} of a result failed and is tried again", task=effect.task, reason=reason)
        return None

    async def _completed(self, order: Publish | Merge, children: list[Task]) -> Order:
        """The order with what only the log has: inline results, the worker."""
        if isinstance(order, Publish):
            worker, result = await self._succeeded(order.origin.result_id)
            return Publish(_with_worker(order.origin, worker), order.folder, result)
        parts = []
        for child in children:
            _, result = await self._succeeded(child.result_id) if child.result_inline else ("", b"")
            parts.append(Part(child.id, final_folder(child.id, is_shard=True), result))
        return Merge(order.origin, order.folder, tuple(parts), order.export)

    async def _succeeded(self, entry_id: str) -> tuple[str, bytes]:
        """Worker and inline result of the entry that holds a result."""
        entry = await self._log.entry(entry_id)
        match codec.decode(entry.type, entry.payload) if entry is not None else None:
            case AttemptSucceeded(worker=worker, result=result):
                return worker, bytes(result)
            case ResultPublished(result=result):
                return "", bytes(result)
        raise LogError(f"entry {entry_id} is not in the log any more")


def _order_of(cluster: Cluster, task: Task, children: list[Task]) -> Publish | Merge:
    wishes = wishes_of(cluster.spec_of(task))
    worker = cluster.workers.get(task.worker)
    origin = Origin(
        task.id, task.result_attempt, task.worker, task.result_id, worker.versions if worker is not None else {},
        wishes.seed, wishes.declared,
    )  # fmt: skip
    folder = final_folder(task.id, is_shard=task.shard is not None)
    return Merge(origin, folder, (), wishes.export) if children else Publish(origin, folder)


def _with_worker(origin: Origin, worker: str) -> Origin:
    return Origin(origin.task, origin.attempt, worker or origin.worker, origin.result_id, origin.versions, origin.seed, origin.declared)
