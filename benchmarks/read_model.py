"""The read model at a million finished tasks: what projecting a task costs, and how long each sort of list takes.

    python benchmarks/read_model.py [--tasks 1000000] [--model FOLDER] [--repeats 40]

The tasks come as the events that services would have written, through the projector's own fold and writer. `--model` keeps the file, and takes
it as it is where it is there already. Lists are read with filters drawn at random from what there is; docs/benchmarks.md explains the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import hashlib
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from aiohttp.test_utils import TestClient, TestServer
from machine import described
from many_tasks import KINDS, START_MS, WORKERS, entries
from msgspec.structs import replace

from mloc.core.cluster import Cluster
from mloc.core.task import Task
from mloc.services.garbage_collection import collect_seldom
from mloc.services.intake.http.api import build_app
from mloc.services.intake.task_query import TaskQuery
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.observer import Observer
from mloc.services.read_model.gathering import Gathering
from mloc.services.read_model.projector import MOST_TOUCHED
from mloc.services.read_model.reader import Reader
from mloc.services.read_model.rows import rank
from mloc.services.read_model.statistics import period, spans
from mloc.services.read_model.statistics import statistics as statistics_of
from mloc.services.read_model.writer import Writer
from mloc.services.settings import Settings

RESULTS = Path(__file__).resolve().parent / "results" / "read_model.json"
GOAL_MS = 50.0
DONE, FAILED = frozenset({"published"}), frozenset({"dead_lettered", "cancelled", "timed_out"})


def built(path: Path, tasks: int) -> dict[str, float]:
    """CPU microseconds a task: folding its entries, writing its rows."""
    writer, gathering = Writer(path), Gathering(Cluster(), {})
    gathering.start()
    made, fold_sec, write_sec, began = entries(tasks), 0.0, 0.0, time.monotonic()
    while True:
        batch = [entry for entry, _ in zip(made, range(256), strict=False)]
        before = time.process_time()
        for entry in batch:
            gathering.fold(entry)
        folded = time.process_time()
        if gathering.count() >= MOST_TOUCHED or not batch:
            state = gathering.cluster
            writer.write(gathering.take(), replace(writer.cursor, log_id=state.log_id, position=state.position, is_complete=not batch))
        fold_sec, write_sec = fold_sec + folded - before, write_sec + time.process_time() - folded
        if not batch:
            break
    writer.close()
    return {
        "fold_us": fold_sec / tasks * 1e6, "write_us": write_sec / tasks * 1e6, "wall_sec": time.monotonic() - began,
        "bytes_a_task": path.stat().st_size / tasks,
    }  # fmt: skip


def lists(chance: random.Random, tasks: int, ids: list[str]) -> Iterator[tuple[str, Callable[[], TaskQuery]]]:
    """What is measured: a name, and a query of that sort with other values each time."""

    def owner() -> str:
        return f"user{int(chance.paretovariate(1.0)) % 500}"

    span_ms = tasks // 50 * (50 * 1000 // 3 // 6) * 6
    filters: dict[str, Callable[[], TaskQuery]] = {
        "everything": TaskQuery,
        "roots": lambda: TaskQuery(parent="none"),
        "state published": lambda: TaskQuery(phases=DONE),
        "state failed": lambda: TaskQuery(phases=FAILED),
        "kind": lambda: TaskQuery(kind=chance.choice(KINDS)[chance.randrange(2)]),
        "owner": lambda: TaskQuery(owner=owner()),
        "project": lambda: TaskQuery(project=f"p{chance.randrange(50)}"),
        "label, common": lambda: TaskQuery(labels=(("team", f"t{chance.randrange(20)}"),)),
        "label, rare": lambda: TaskQuery(labels=(("run", str(chance.randrange(tasks // 100))),)),
        "worker": lambda: TaskQuery(worker=f"w{chance.randrange(WORKERS)}"),
        "parent": lambda: TaskQuery(parent=chance.choice(ids)),
        "since": lambda: TaskQuery(since_ms=START_MS + chance.randrange(span_ms)),
        "owner and state": lambda: TaskQuery(owner=owner(), phases=FAILED),
        "owner, project and kind": lambda: TaskQuery(owner=owner(), project=f"p{chance.randrange(50)}", kind="inference"),
        "owner and since": lambda: TaskQuery(owner=owner(), since_ms=START_MS + chance.randrange(span_ms)),
        "two labels": lambda: TaskQuery(labels=(("team", f"t{chance.randrange(20)}"), ("run", str(chance.randrange(tasks // 100))))),
        "nobody's": lambda: TaskQuery(owner="nobody"),
    }
    for name, make in filters.items():
        yield name, make
        for sort in ("oldest", "priority", "ended", "name"):
            yield f"{name}, by {sort}", lambda make=make, sort=sort: replace(make(), sort=sort)  # type: ignore[misc]
    yield "page 200 by number", lambda: TaskQuery(page=200)
    yield "page 10,000 by number", lambda: TaskQuery(page=tasks // 100)


class Took(NamedTuple):
    """ms; what the process itself computed tells more than the clock where others compute, too."""

    wall: float
    cpu: float


def timed(action: Callable[[], object]) -> Took:
    began, cpu = time.perf_counter(), time.process_time()
    action()
    return Took((time.perf_counter() - began) * 1000, (time.process_time() - cpu) * 1000)


def row(name: str, took: list[Took]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "times": len(took)}
    for what, values in (("wall", sorted(one.wall for one in took)), ("cpu", sorted(one.cpu for one in took))):
        found[f"{what}_p50_ms"] = round(statistics.median(values), 3)
        found[f"{what}_p95_ms"] = round(values[min(len(values) - 1, int(len(values) * 0.95))], 3)
    print(
        f"  {name:<40} wall p50 {found['wall_p50_ms']:8.2f}  p95 {found['wall_p95_ms']:8.2f}   cpu p50 {found['cpu_p50_ms']:8.2f}  "
        f"p95 {found['cpu_p95_ms']:8.2f} ms{'   over' if found['cpu_p95_ms'] > GOAL_MS else ''}", flush=True,
    )  # fmt: skip
    return found


def measured(path: Path, tasks: int, repeats: int) -> list[dict[str, Any]]:
    chance, reader = random.Random(7), Reader(path)
    newest = reader.find(TaskQuery(page_size=500), {})[1].tasks
    ids = [task.id for task in newest]
    rows = []
    for name, make in lists(chance, tasks, ids):
        queries = [make() for _ in range(repeats)]
        rows.append(row(name, [timed(lambda query=query: reader.find(query, {})) for query in queries]))  # type: ignore[misc]
    rows.append(row("by cursor, a walk through all", list(walked(reader, chance, tasks, repeats))))
    overlay: dict[int, Task] = {rank(task): replace(task, owner="user1") for task in newest}
    rows.append(row("owner, with 500 changed in memory", [timed(lambda: reader.find(TaskQuery(owner="user1"), overlay)) for _ in range(repeats)]))
    rows.append(row("one task by id", [timed(lambda: reader.get(chance.choice(ids))) for _ in range(repeats)]))
    always = tuple(spans(period("", "")))
    some = tuple(spans(period("2026-06-01T05:00", "2026-09-03T20:00")))
    rows.append(row("statistics, everyone, always", [timed(lambda: statistics_of(reader.sums(always, "")[1])) for _ in range(repeats)]))
    rows.append(row("statistics, an owner, three months", [timed(lambda: statistics_of(reader.sums(some, "user1")[1])) for _ in range(repeats)]))
    reader.close()
    return rows


def walked(reader: Reader, chance: random.Random, tasks: int, repeats: int) -> Iterator[Took]:
    """Pages by cursor at depths drawn at random, in every order."""
    for sort in ("newest", "oldest", "priority", "ended", "name"):
        deep = reader.find(TaskQuery(sort=sort, page=chance.randrange(1, tasks // 50)), {})[1].next_cursor
        for _ in range(repeats // 4):
            query = TaskQuery(sort=sort, cursor=deep)
            yield timed(lambda query=query: reader.find(query, {}))  # type: ignore[misc]
            deep = reader.find(query, {})[1].next_cursor


async def over_http(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """The same API as a service has, over a log that ends where the read model does."""
    memory = MemoryServer(lambda: 1_900_000_000_000)
    log = MemoryLog(memory)
    await log.lease("scheduler", "benchmark")
    first, position = await log.ends()
    entry = await log.entry(position)
    assert entry is not None
    begun = await log.entry(first)
    assert begun is not None
    claim_position(folder / "read_model.sqlite", position, entry.payload, msgspec.json.decode(begun.payload)["log_id"])
    observer = Observer(log)
    following = asyncio.create_task(observer.follow())
    settings = Settings(orchestrator_state_dir=str(folder), results_dir=str(folder / "results"))
    rows = []
    async with TestClient(TestServer(build_app(settings, log, observer))) as client:
        paths = {
            "": "", "owner": "owner=user1", "state": "state=FAILED", "label": "label=team%3Dt3", "by name": "sort=name", "roots": "parent=none"
        }  # fmt: skip
        for name, query in paths.items():
            took = []
            for _ in range(repeats):
                began, cpu = time.perf_counter(), time.process_time()
                answer = await (await client.get(f"/api/v1/tasks?{query}")).json()
                took.append(Took((time.perf_counter() - began) * 1000, (time.process_time() - cpu) * 1000))
                assert answer["tasks"], answer
                assert not answer["warnings"], answer["warnings"]
            rows.append(row(f"HTTP, {name or 'everything'}", took))
    following.cancel()
    return rows


def claim_position(path: Path, position: str, payload: bytes, log_id: str) -> None:
    """The benchmark's tasks are in no server's log: the file is made to end where this small one does."""
    connection = sqlite3.connect(path)
    connection.execute(
        "UPDATE cursor SET position = ?, entry_sha256 = ?, log_id = ?", (position, hashlib.sha256(payload).hexdigest(), log_id)
    )  # fmt: skip
    connection.commit()
    connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--model", type=Path, help="folder to keep the file in; one that is there is used as it is")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    collect_seldom()
    with tempfile.TemporaryDirectory(prefix="mloc-bench-") as folder:
        path = (options.model or Path(folder)) / "read_model.sqlite"
        figures = built(path, options.tasks) if not path.exists() else {}
        print({name: round(value, 1) for name, value in figures.items()})
        rows = measured(path, options.tasks, options.repeats)
        rows += asyncio.run(over_http(path.parent, options.repeats))
        machine = described(path.parent)
    result = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "machine": machine,
        "load": os.getloadavg(), "tasks": options.tasks, "projecting": figures, "lists": rows,
    }  # fmt: skip
    options.output.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
