"""The projection that writes the result trees right after publication, from the log, with a cursor of its own.

While it keeps up it is fed by the service's loop as that folds; when it falls behind (its queue is full, or it was just started) it reads
the log from its cursor until it has caught up. Nobody waits for it, and nothing is lost: the log has it all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import structlog

from mloc.core import codec, log_ids
from mloc.core.events import AttemptSucceeded, Event
from mloc.services.clock import Clock
from mloc.services.log.event_log import MAX_BATCH, EventLog, LogError, ServerChanged, TelemetryPoint
from mloc.services.results.manifest import Origin
from mloc.services.results.orders import Failed
from mloc.services.results.telemetry_files import PAGE, telemetry_files
from mloc.services.results.tree_cursor import TreeCursor
from mloc.services.results.tree_fold import TYPES, Draft, TreeFold
from mloc.services.results.trees import Tree, WriteTrees, Written
from mloc.services.results.writer_link import ResultWriter

QUEUE = 20_000  # events that wait; more than that and the log is read again instead
SAVE_SEC = 1.0
RETRY_SEC, LONGEST_RETRY_SEC = 0.25, 10.0

Fed = tuple[str, Event]


class TreeProjection:
    """`log` must not be the one that the service's loop folds. `quick` writes the many small trees, `slow` all that may take long."""

    def __init__(
        self, log: EventLog, clock: Clock, cursor: TreeCursor, quick: ResultWriter, slow: ResultWriter, *,
        position: Callable[[], str], versions_of: Callable[[str], dict[str, str]], allowed_roots: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._log = log
        self._clock = clock
        self._cursor = cursor
        self._quick = quick
        self._slow = slow
        self._position = position  # up to where the service's loop has folded
        self._allowed_roots = tuple(allowed_roots)
        self._say = structlog.get_logger().bind(service="aggregator")
        self.state = cursor.load()
        self._fold = TreeFold(self.state, versions_of)
        self._fed: deque[Fed] = deque()
        self._is_fed = False  # whether what the loop folds from here on is in the queue
        self._waiting: asyncio.Event = asyncio.Event()
        self._saved = ""
        self._save_at = 0.0
        self._saving: asyncio.Task[None] | None = None

    def feed(self, id: str, event: Event) -> None:
        """An event of TYPES that the service's loop has just folded."""
        if not self._is_fed:
            return
        if len(self._fed) >= QUEUE:
            self._read_again()
            return
        self._fed.append((id, event))
        self._waiting.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set and what was fed is written."""
        stopping = asyncio.ensure_future(stop.wait())
        stopping.add_done_callback(lambda _: self._waiting.set())
        try:
            while not stop.is_set() or (self._is_fed and self._fed):
                try:
                    await self._step(stop)
                except ServerChanged:
                    self._read_again()
                    await self._look_at_new_run()
                except LogError as error:
                    self._read_again()
                    self._say.debug("the trees wait for the event log", reason=str(error))
                    await self._clock.sleep(RETRY_SEC)
                    if stop.is_set():
                        break
        finally:
            stopping.cancel()
        await self._save(last=True)

    # --- events ---

    def _read_again(self) -> None:
        """From the log, from where trees are written."""
        self._fed.clear()
        self._is_fed = False

    async def _step(self, stop: asyncio.Event) -> None:
        entries, position = self._take_fed() if self._is_fed else await self._read()
        drafts = [draft for id, event in entries for draft in self._fold.fold(id, event)]
        if drafts and not await self._write(drafts, stop):
            return
        self.state.written = position
        await self._save()
        if not self._is_fed and not log_ids.before(position, self._position()):
            self._is_fed = True  # from the next entry that the loop folds
        elif self._is_fed and not self._fed:
            await self._wait_for_more()

    def _take_fed(self) -> tuple[list[Fed], str]:
        entries: list[Fed] = []
        while self._fed and len(entries) < MAX_BATCH:
            entries.append(self._fed.popleft())
        if not entries:
            return [], self.state.written
        last = entries[-1][0]
        if not log_ids.before(self.state.written, entries[0][0]):  # the loop folds again what it had folded before
            entries = [entry for entry in entries if log_ids.before(self.state.written, entry[0])]
        return entries, last if entries else self.state.written

    async def _read(self) -> tuple[list[Fed], str]:
        found = await self._log.read(self.state.written, MAX_BATCH)
        entries = []
        for entry in found:
            event = codec.decode(entry.type, entry.payload) if entry.type in TYPES else None
            if event is not None and not isinstance(event, codec.UnknownEvent):
                entries.append((entry.id, event))
        if not found and log_ids.before(self.state.written, self._position()):
            return [], self._position()  # the log's end was lost, or trimmed to here
        return entries, found[-1].id if found else self.state.written

    async def _wait_for_more(self) -> None:
        self._waiting.clear()
        if self._fed:
            return
        unsaved = self.state.written != self._saved
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._waiting.wait(), max(0.05, self._save_at - self._clock.monotonic()) if unsaved else None)

    async def _look_at_new_run(self) -> None:
        try:
            await self._log.run_id()
        except LogError:
            await self._clock.sleep(RETRY_SEC)

    # --- trees ---

    async def _write(self, drafts: list[Draft], stop: asyncio.Event) -> bool:
        """False: stopped before they were written."""
        trees = await self._completed(drafts)
        slow = tuple(tree for tree in trees if not tree.ok or tree.is_written or tree.destination)
        quick = tuple(tree for tree in trees if tree.ok and not tree.is_written and not tree.destination)
        for writer, some in ((self._slow, slow), (self._quick, quick)):
            if some and not await self._ask(writer, WriteTrees(some, self._allowed_roots), stop):
                return False
        return True

    async def _ask(self, writer: ResultWriter, order: WriteTrees, stop: asyncio.Event) -> bool:
        delay = RETRY_SEC
        while True:
            reply = await writer.ask(order)
            if isinstance(reply, Written):
                for warning in reply.warnings:
                    self._say.warning(warning)
                return True
            reason = reply.reason if isinstance(reply, Failed) else "an answer to another question"
            self.state.failures += 1
            self._say.error("result trees could not be written and are tried again", trees=len(order.trees), reason=reason)
            if stop.is_set():
                return False
            await self._clock.sleep(delay)
            delay = min(delay * 2, LONGEST_RETRY_SEC)

    async def _completed(self, drafts: list[Draft]) -> list[Tree]:
        reading = [self._complete(draft) for draft in drafts if draft.result_id or draft.telemetry]
        if reading:
            await asyncio.gather(*reading)
        trees = []
        for draft in drafts:
            trees.append(Tree(draft.origin, draft.folder, draft.result, draft.ok, draft.is_written, draft.logs, draft.destination))
        return trees

    async def _complete(self, draft: Draft) -> None:
        if draft.result_id:
            entry = await self._log.entry(draft.result_id)
            event = codec.decode(entry.type, entry.payload) if entry is not None else None
            if isinstance(event, AttemptSucceeded):
                draft.result, draft.is_written = bytes(event.result), not event.result
                draft.origin = _by_worker(draft.origin, event.worker)
            else:
                self._say.error("a result is not in the log any more; its tree is left out", task=draft.origin.task, entry=draft.result_id)
                draft.is_written = True
        files: list[tuple[str, bytes]] = []
        for task in draft.telemetry:
            prefix = f"{task.rpartition('.')[2]}-" if len(draft.telemetry) > 1 else ""
            files += telemetry_files(await self._telemetry(task), prefix)
        draft.logs = tuple(files)

    async def _telemetry(self, task: str) -> list[tuple[str, TelemetryPoint]]:
        points: list[tuple[str, TelemetryPoint]] = []
        while True:
            page = await self._log.read_telemetry(task, points[-1][0] if points else log_ids.START, PAGE)
            points += page
            if len(page) < PAGE:
                return points

    # --- the cursor ---

    async def _save(self, *, last: bool = False) -> None:
        """Off the loop, at most once a second, and less often where the state is large."""
        now = self._clock.monotonic()
        if self._saving is not None and (last or self._saving.done()):
            await self._saving
            self._saving = None
        if self.state.written == self._saved or (not last and (now < self._save_at or self._saving is not None)):
            return
        if settled := self._cursor.passed(self.state.written, now):
            self._fold.settle(settled)
        self._saved = self.state.written
        encoded = msgspec.json.encode(self.state)
        self._save_at = now + SAVE_SEC + len(encoded) / 10_000_000
        saving = self._keep(encoded)
        if last:
            await saving
        else:
            self._saving = asyncio.create_task(saving)

    async def _keep(self, encoded: bytes) -> None:
        try:
            await asyncio.to_thread(self._cursor.save, encoded)
        except OSError as error:
            self._saved = ""
            self._say.error("the cursor of the result trees could not be saved; free some space", reason=error.strerror or str(error))


def _by_worker(origin: Origin, worker: str) -> Origin:
    return Origin(origin.task, origin.attempt, worker, origin.result_id, origin.versions, origin.seed, origin.declared)
