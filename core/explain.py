"""Why a task waits: the same predicates that place it, asked of every worker. The reasons have one order; the first that holds is the answer.

    no worker offers this type > fits no worker > held (dependency, back-off, drain) > all that fit are busy > next in line
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from mloc.core import log_ids
from mloc.core.cluster import Cluster
from mloc.core.decisions import dispatch_policy, placement
from mloc.core.decisions.joining import first_in_line, may_join
from mloc.core.decisions.nearest_fit import nearest_fit
from mloc.core.decisions.placement import Room, Rule
from mloc.core.events import Need, TaskSubmitted
from mloc.core.needs.need import kind_of
from mloc.core.order import rank
from mloc.core.task import FINAL, Task
from mloc.core.worker import Worker, not_offered, why_not_offered

Reason = Literal["no_worker", "never_fits", "held", "busy", "next", "sent", "ended", "dead_lettered", "children"]


class WorkerVerdict(Struct, frozen=True, gc=False):
    """What one worker says to the task: `fits` for its kind, `has_room` now, and `why` not, in words."""

    worker: str
    fits: bool
    has_room: bool
    why: str


class Explanation(Struct, frozen=True, gc=False):
    """The first reason that holds, in words, and each worker's verdict.

    `worker` is where the task would go now. `change` is the smallest change that would let it run, where no worker fits."""

    reason: Reason
    summary: str
    workers: tuple[WorkerVerdict, ...] = ()
    worker: str = ""
    change: str = ""


def explain(cluster: Cluster, task: Task) -> Explanation:
    """Why the task is where it is."""
    if task.phase in FINAL or task.phase == "succeeded":
        return Explanation("ended", f"the task is {_words(task.phase)}" + (f": {task.reason}" if task.reason else ""))
    if task.phase == "dead_lettered":
        return Explanation("dead_lettered", f"the task failed and waits for a person ({task.reason}); `mloc-intake retry {task.id}` runs it again")
    if task.phase in ("dispatched", "running") and not task.children:
        return Explanation("sent", f"attempt {task.tries} {'runs on' if task.phase == 'running' else 'was sent to'} worker {task.worker}")
    if task.children:
        return _of_children(cluster, task)
    return explain_need(cluster, task.need, _held(cluster, task), task) if task.need else Explanation("held", "the task states no need")


def explain_submission(cluster: Cluster, event: TaskSubmitted) -> Explanation | None:
    """Where a task would go if it were submitted now, or why not; None for a pipeline, which goes nowhere itself."""
    if event.need is None:
        return None
    open_ = _awaited(cluster, event.depends_on, event.met)
    own = f"{event.parent}." if event.parent else ""
    held = f"it waits for {', '.join(id.removeprefix(own) for id in open_)}" if open_ else ""
    return explain_need(cluster, event.need, held, priority=event.priority)


def explain_need(cluster: Cluster, need: Need, held: str = "", task: Task | None = None, priority: int = 50) -> Explanation:
    """Where a need would go now; `held` says what else keeps its task back. Without a task, it would be the last one of that priority, and a
    worker that tasks are tied to is not known."""
    asking = task or Task("", need=need, priority=priority, order=cluster.submissions + 1)
    rooms = _rooms_for(cluster, asking)
    verdicts = tuple(_verdict(cluster, rooms[worker_id], need) for worker_id in sorted(cluster.workers))
    alive = [worker for worker in cluster.workers.values() if worker.phase == "alive"]
    if not alive:
        return Explanation("no_worker", "no worker is there; start one with `mloc worker`", verdicts)
    if all(not_offered(worker, need) for worker in alive):
        return Explanation("no_worker", f"none of {_count(len(alive), 'worker')} offers task {kind_of(need)}{_remedies(alive, need)}", verdicts)
    if not any(verdict.fits for verdict in verdicts):
        return _of_misfits(cluster, need, alive, verdicts)
    if held:
        return Explanation("held", held, verdicts)
    if not any(verdict.has_room for verdict in verdicts):
        return Explanation("busy", f"{_count(sum(v.fits for v in verdicts), 'worker')} that would fit: all busy", verdicts)
    fitting = [verdict.worker for verdict in verdicts if verdict.fits]
    rule = placement.rule_of(cluster)
    if task is None and rule.is_pinned:
        rule = Rule()
    chosen = placement.choose(rooms, fitting, asking, rule)
    if chosen is None:
        assert task is not None
        tied_to = dispatch_policy.pinned(rule.policy, task, fitting)
        return Explanation("busy", f"{tied_to}, which it is tied to by the dispatch policy {rule.policy}, is busy", verdicts)
    return Explanation("next", "next in line", verdicts, worker=chosen.worker)


def _rooms_for(cluster: Cluster, task: Task) -> dict[str, Room]:
    """What the workers have free for it. Batches that it could join are closed to it where one that is placed before it waits for the devices."""
    rooms = {worker.id: Room(cluster, worker) for worker in cluster.workers.values()}
    if task.need is None or not may_join(task.need) or not any(room.join(task.need) for room in rooms.values()):
        return rooms
    rule = placement.rule_of(cluster)
    for other in first_in_line(cluster, rank(task), log_ids.time_ms(cluster.position)):
        assert other.need is not None
        fitting = [id for id, room in rooms.items() if not placement.misfit(cluster, room.worker, other.need)]
        if other.need.gpus and placement.choose(rooms, fitting, other, rule) is None:
            placement.keep_for(rooms, fitting, other, rule)
    return rooms


def _remedies(alive: list[Worker], need: Need) -> str:
    """What would make a worker offer the type, by worker; those that lack the same together."""
    by_words: dict[str, list[str]] = {}
    for worker in alive:
        if words := why_not_offered(worker, need):
            by_words.setdefault(words, []).append(worker.id)
    told = [f"{ids[0]}{f' and {len(ids) - 1} more' if len(ids) > 1 else ''}: {words}" for words, ids in list(by_words.items())[:3]]
    return f" ({'; '.join(told)})" if told else ""


def _of_misfits(cluster: Cluster, need: Need, alive: list[Worker], verdicts: tuple[WorkerVerdict, ...]) -> Explanation:
    nearest = nearest_fit(cluster, need)
    change = str(nearest) if nearest else ""
    for held, words in (("draining", "draining"), ("disabled", "switched off")):
        would = [worker.id for worker in alive if getattr(worker, held) and not placement.misfit(cluster, replace(worker, **{held: False}), need)]
        if would:
            return Explanation("held", f"{', '.join(would)} would fit and {'is' if len(would) == 1 else 'are'} {words}", verdicts, change=change)
    closest = nearest.worker if nearest else ""
    shown = next((v for v in verdicts if v.worker == closest), None) or next(
        (v for v in verdicts if not not_offered(cluster.workers[v.worker], need)), verdicts[0]
    )
    return Explanation("never_fits", f"no worker fits; {shown.worker}: {shown.why}", verdicts, change=change)


def _verdict(cluster: Cluster, room: Room, need: Need) -> WorkerVerdict:
    worker = room.worker
    if misfit := placement.misfit(cluster, worker, need):
        return WorkerVerdict(worker.id, fits=False, has_room=False, why=misfit)
    if room.place(need) is not None:
        return WorkerVerdict(worker.id, fits=True, has_room=True, why="it has room")
    if room.join(need) is not None:
        return WorkerVerdict(worker.id, fits=True, has_room=True, why="it has room in the batch of the engine that the task wants")
    why = room.shortage(need)
    if not why and (earlier := room.kept_for(need)):
        why = f"the engine that the task wants runs there, and {earlier}, which comes first, waits for its devices"
    return WorkerVerdict(worker.id, fits=True, has_room=False, why=f"it is busy: {why}" if why else "it is busy")


def _held(cluster: Cluster, task: Task) -> str:
    if task.phase == "waiting":
        open_ = _awaited(cluster, task.depends_on, cluster.met.get(task.id, {}))
        dead = [id for id in open_ if (known := cluster.tasks.get(id)) and known.phase == "dead_lettered"]
        return f"it waits for {', '.join(open_)}" + (f"; {dead[0]} failed and waits for a person" if dead else "")
    if task.phase == "backoff":
        return f"it is tried again after a pause: {task.reason}"
    return "" if task.phase == "ready" else f"the scheduler decides about it next: {task.reason}"


def _awaited(cluster: Cluster, depends_on: tuple[str, ...], met: dict[str, str]) -> list[str]:
    return [id for id in depends_on if id not in met and not _is_published(cluster, id)]


def _of_children(cluster: Cluster, task: Task) -> Explanation:
    open_ = [child for id in task.children if (child := cluster.tasks.get(id)) and child.phase not in FINAL]
    lines = [f"{child.stage or child.id}: {explain(cluster, child).summary}" for child in open_[:5]]
    return Explanation("children", f"{task.done} of {len(task.children)} parts are done" + ("; " + "; ".join(lines) if lines else ""))


def _is_published(cluster: Cluster, id: str) -> bool:
    task = cluster.tasks.get(id)
    return task is not None and task.phase == "published"


def _words(phase: str) -> str:
    return phase.replace("_", " ")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
