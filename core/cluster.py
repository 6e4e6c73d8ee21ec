"""The cluster state: what the log says, and the indexes that deciding needs. `evolve` (in `fold`) is its only writer.

Tasks, workers and attempts are frozen values; everything else here can be built anew from them.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from mloc.core import log_ids
from mloc.core.callbacks import at_end
from mloc.core.calls import Calls
from mloc.core.holdings import Holdings
from mloc.core.order import Ordered, ReadyQueues, ascending
from mloc.core.task import FINAL, Task
from mloc.core.worker import Attempt, Worker

FOLD_VERSION = 1
KEEP_ENDED = 20_000  # tasks in a final phase that stay in memory


class Stored(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The state as a snapshot keeps it; specs apart, because the digest covers them by `spec_digest`.

    Defaults are left out, here and in the values inside, so that a field that is added later changes no digest of an old log.
    """

    fold_version: int
    position: str
    log_id: str
    run_id: str
    first_ms: int
    attempt_base: int
    submissions: int
    unknown: int
    dispatch_policy: str
    mean_ms: dict[str, float]
    tasks: list[Task]
    ended: list[str]
    workers: list[msgspec.Raw]
    attempts: list[Attempt]
    doomed: dict[str, str]
    unneeded: dict[str, dict[str, list[int]]]  # worker → task → attempt numbers
    met: dict[str, dict[str, str]]
    last_worker: str = ""
    expiring: list[tuple[int, str]] = []


_digest_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decode_worker = msgspec.msgpack.Decoder(Worker).decode
_decode_stored = msgspec.msgpack.Decoder(tuple[Stored, dict[str, bytes]]).decode


class Cluster:
    """The fold's state at one position of the log."""

    def __init__(self) -> None:
        self.fold_version = FOLD_VERSION
        self.position = log_ids.START
        self.log_id = ""
        self.run_id = ""
        self.first_ms = 0
        self.attempt_base = 0  # attempt numbers are larger than this
        self.submissions = 0
        self.unknown = 0  # entries of types that this program does not know
        self.dispatch_policy = ""  # as `dispatch_policy` names them; empty: the default
        self.last_worker = ""  # that got a dispatch, while the policy is one that asks
        self.mean_ms: dict[str, float] = {}  # task type → moving mean of an attempt's duration
        self.tasks: dict[str, Task] = {}
        self.specs: dict[str, bytes] = {}  # JSON by task, while the task is open; a shard uses its parent's
        self.met: dict[str, dict[str, str]] = {}  # task → dependency that left memory → entry of its result
        self.workers: dict[str, Worker] = {}
        self.holdings = Holdings()
        self.doomed: dict[str, str] = {}  # open tasks that must be cancelled → reason
        self.ended: deque[str] = deque()  # tasks in a final phase, oldest first
        self.expiring: list[tuple[int, str]] = []  # heap of (when the result may go, task), also of tasks that left memory
        # indexes
        self.by_phase: dict[str, dict[str, None]] = {}
        self.ready = ReadyQueues()
        self.backoffs: list[tuple[int, str]] = []  # heap of (not before, task)
        self.deadlines: list[tuple[int, str, int]] = []  # heap of (deadline, task, attempt)
        self.dependants: dict[str, list[str]] = {}
        self.retries: dict[str, None] = {}  # tasks with an undecided retry request
        self.calls = Calls()  # of receivers that wait to be told
        # for a reader that copies tasks elsewhere: task → (its value when this was emptied last, its value now); None where nobody asks
        self.touched: dict[str, tuple[Task | None, Task]] | None = None

    # --- reading ---
    def phase(self, name: str) -> dict[str, None]:
        """Ids of the tasks in a phase."""
        return self.by_phase.get(name, {})

    def counts(self) -> dict[str, int]:
        """Number of tasks by phase."""
        return {phase: len(ids) for phase, ids in self.by_phase.items() if ids}

    def open_count(self) -> int:
        return len(self.tasks) - len(self.ended)

    def spec_of(self, task: Task) -> bytes:
        """JSON of an open task's spec."""
        return self.specs.get(task.parent if task.shard else task.id, b"")

    def next_attempt(self, task: Task) -> int:
        """A number that no attempt of the task has or had, in this log, in its tail that was lost, or in one that was lost as a whole."""
        base = self.attempt_base
        if task.attempts_after:  # counted from 1970, as its numbers are
            base = max(task.attempts_after, self.first_ms + base)
        return max(task.last, base) + 1

    def due_backoffs(self, now_ms: int) -> Iterator[Task]:
        for due, id in _until(self.backoffs, now_ms):
            task = self.tasks.get(id)
            if task is not None and task.phase == "backoff" and task.not_before_ms == due:
                yield task

    def due_deadlines(self, now_ms: int) -> Iterator[Task]:
        for due, id, attempt in _until(self.deadlines, now_ms):
            if self.is_deadline(due, id, attempt):
                yield self.tasks[id]

    def is_deadline(self, due: int, id: str, attempt: int) -> bool:
        task = self.tasks.get(id)
        return task is not None and task.phase == "running" and task.current == attempt and deadline(task) == due

    def next_due_ms(self) -> int | None:
        """When a back-off or a time-out is due next; the fold keeps the heaps' fronts true."""
        fronts = [heap[0][0] for heap in (self.backoffs, self.deadlines) if heap]
        return min(fronts) if fronts else None

    # --- writing, by the fold alone ---
    def put(self, old: Task | None, new: Task) -> None:
        """Keep a task's new value and every index that follows from its phase."""
        id, phase = new.id, new.phase
        if new.callbacks:
            new = self._with_callbacks(old, new)
        self.tasks[id] = new
        if self.touched is not None:
            known = self.touched.get(id)
            self.touched[id] = (old if known is None else known[0], new)
        if old is not None:
            before = old.phase
            if before == phase:
                if phase == "ready" and old.priority != new.priority:
                    self.ready.add(new)
                return
            del self.by_phase[before][id]
            if before == "ready" and old.need is not None:
                self.ready.trim(old.need, self.tasks)
        of_phase = self.by_phase.get(phase)
        if of_phase is None:
            of_phase = self.by_phase[phase] = {}
        of_phase[id] = None
        if phase == "ready":
            self.ready.add(new)
        elif phase == "running":
            if new.timeout_sec and not new.children:
                heapq.heappush(self.deadlines, (deadline(new), id, new.current))
        elif phase == "backoff":
            heapq.heappush(self.backoffs, (new.not_before_ms, id))
        elif phase in FINAL:
            self._finish(new)
        if self.backoffs or self.deadlines:
            self._trim_heaps()

    def _with_callbacks(self, old: Task | None, new: Task) -> Task:
        if old is None or old.phase != new.phase:
            new = replace(new, callbacks=at_end(new.callbacks, new.phase, new.since_ms))
        before = old.callbacks if old is not None else ()
        for at, one in enumerate(new.callbacks):
            if at >= len(before) or one is not before[at]:
                self.calls.keep(new.id, one)
        return new

    def link(self, task: Task) -> None:
        """Remember whom a new task waits for."""
        for dependency in task.depends_on:
            self.dependants.setdefault(dependency, []).append(task.id)

    def _finish(self, task: Task) -> None:
        id = task.id
        self.ended.append(id)
        if task.ttl_ms:
            heapq.heappush(self.expiring, (task.since_ms + task.ttl_ms, id))
        if not task.shard:
            self.specs.pop(id, None)
            self.met.pop(id, None)
        self.doomed.pop(id, None)
        self.retries.pop(id, None)
        if len(self.ended) > KEEP_ENDED:
            for _ in range(min(2, len(self.ended) - KEEP_ENDED)):
                self._evict()

    def _evict(self) -> None:
        """Forget the oldest ended task, unless an open task still refers to it."""
        id = self.ended.popleft()
        task = self.tasks[id]
        if self._is_referred_to(task):
            self.ended.append(id)
            return
        del self.tasks[id]
        del self.by_phase[task.phase][id]
        self.dependants.pop(id, None)

    def _is_referred_to(self, task: Task) -> bool:
        if any(one.state == "due" for one in task.callbacks):
            return True
        others = (task.parent, *task.children, *self.dependants.get(task.id, ()))
        return any(id in self.tasks and self.tasks[id].phase not in FINAL for id in others if id)

    def _trim_heaps(self) -> None:
        while self.backoffs:
            due, id = self.backoffs[0]
            task = self.tasks.get(id)
            if task is not None and task.phase == "backoff" and task.not_before_ms == due:
                break
            heapq.heappop(self.backoffs)
        while self.deadlines and not self.is_deadline(*self.deadlines[0]):
            heapq.heappop(self.deadlines)

    # --- snapshots and digest ---
    def copy(self) -> Cluster:
        """A state of its own at the same position: both share the frozen values, and each may be folded on. Costs some 20 ns a task."""
        other = Cluster()
        other.__dict__.update(self.__dict__)
        for name in ("mean_ms", "tasks", "specs", "met", "workers", "doomed", "retries"):
            setattr(other, name, dict(getattr(self, name)))
        other.ended, other.expiring = self.ended.copy(), list(self.expiring)
        other.by_phase = {phase: dict(ids) for phase, ids in self.by_phase.items()}
        other.dependants = {id: list(waiting) for id, waiting in self.dependants.items()}
        other.backoffs, other.deadlines = list(self.backoffs), list(self.deadlines)
        other.holdings, other.ready, other.calls = self.holdings.copy(), self.ready.copy(), self.calls.copy()
        other.touched = None
        return other

    def stored(self) -> Stored:
        unneeded: dict[str, dict[str, list[int]]] = {}
        for (task, number), worker in sorted(self.holdings.unneeded.items()):
            unneeded.setdefault(worker, {}).setdefault(task, []).append(number)
        return Stored(
            self.fold_version, self.position, self.log_id, self.run_id, self.first_ms, self.attempt_base, self.submissions, self.unknown,
            self.dispatch_policy, self.mean_ms, list(self.tasks.values()), list(self.ended), [_compact(worker) for worker in self.workers.values()],
            sorted(self.holdings.all(), key=lambda a: (a.worker, a.task, a.number)), self.doomed, unneeded, self.met, self.last_worker,
            sorted(self.expiring),
        )  # fmt: skip

    def digest(self) -> str:
        """sha256, hex, of the whole state without the specs' bytes: equal digests are equal states."""
        return hashlib.sha256(_digest_encoder.encode(self.stored())).hexdigest()

    def encoded(self) -> tuple[bytes, bytes]:
        """The two parts of `to_bytes`: the state, whose sha256 is the digest, and the specs."""
        return _digest_encoder.encode(self.stored()), msgspec.msgpack.encode(self.specs)

    def to_bytes(self) -> bytes:
        return joined(*self.encoded())


def joined(state: bytes, specs: bytes) -> bytes:
    """What `from_bytes` reads, from the parts that `Cluster.encoded` gives: a msgpack array of two."""
    return b"\x92" + state + specs


def from_bytes(data: bytes) -> Cluster:
    """The state that `to_bytes` wrote. Raises msgspec.MsgspecError for other bytes, ValueError for another fold version."""
    stored, specs = _decode_stored(data)
    if stored.fold_version != FOLD_VERSION:
        raise ValueError(f"the snapshot was made by fold version {stored.fold_version}, this program has {FOLD_VERSION}")
    cluster = Cluster()
    for name in (
        "position", "log_id", "run_id", "first_ms", "attempt_base", "submissions", "unknown", "dispatch_policy", "last_worker", "mean_ms",
        "doomed", "met",
    ):  # fmt: skip
        setattr(cluster, name, getattr(stored, name))
    cluster.specs = specs
    cluster.workers = {worker.id: worker for worker in map(_decode_worker, stored.workers)}
    needs = {task.id: task.need for task in stored.tasks}
    for attempt in stored.attempts:
        cluster.holdings.add(attempt, needs.get(attempt.task))
    cluster.holdings.unneeded = {
        (task, number): worker for worker, tasks in stored.unneeded.items() for task, numbers in tasks.items() for number in numbers
    }
    cluster.ended = deque(stored.ended)
    cluster.expiring = list(stored.expiring)  # sorted, and so a heap
    _index(cluster, stored.tasks)
    return cluster


def _index(cluster: Cluster, tasks: list[Task]) -> None:
    cluster.tasks = {task.id: task for task in tasks}
    for task in tasks:
        cluster.by_phase.setdefault(task.phase, {})[task.id] = None
        if task.phase not in FINAL or task.depends_on:
            cluster.link(task)
        if task.phase == "ready":
            cluster.ready.add(task)
        elif task.phase == "backoff":
            heapq.heappush(cluster.backoffs, (task.not_before_ms, task.id))
        elif task.phase == "running" and task.timeout_sec and not task.children:
            heapq.heappush(cluster.deadlines, (deadline(task), task.id, task.current))
        if task.retry_by:
            cluster.retries[task.id] = None
        for callback in task.callbacks:
            cluster.calls.keep(task.id, callback)


def _compact(worker: Worker) -> msgspec.Raw:
    """The worker in the shortest form of a map: msgspec takes a wider head for a Struct of 16 fields and more, also where few of them are
    written, and a digest must not depend on fields that are left out."""
    encoded = _digest_encoder.encode(worker)
    count = int.from_bytes(encoded[1:3], "big")
    return msgspec.Raw(bytes((0x80 | count,)) + encoded[3:] if encoded[0] == 0xDE and count < 16 else encoded)


def deadline(task: Task) -> int:
    """When the running attempt times out, ms."""
    return task.started_ms + int(task.timeout_sec * 1000)


def _until(heap: list[Ordered], now_ms: int) -> Iterator[Ordered]:
    for item in ascending(heap):
        if item[0] > now_ms:
            return
        yield item


