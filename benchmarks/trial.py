"""One trial in a process of its own: one contestant, one figure. Prints JSON.

`python benchmarks/trial.py CONTESTANT FIGURE --workers N --tasks N --base FOLDER`
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from contestants import by_name, durability_of
from contestants.contestant import Contestant, payloads
from contestants.mloc_spine import MlocSpine
from measuring import CpuMeter, percentile
from world import World

from mloc.core import codec
from mloc.core.cluster import Cluster
from mloc.core.fold import evolve
from mloc.core.language.reading import read_tasks
from mloc.services.garbage_collection import collect_seldom

WARM_UP = 300
PAUSE_SEC = 0.005
KILL_TASKS, KILL_TASK_MS, KILL_AFTER_SEC, RESTART_AFTER_SEC = 500, 20, 4.0, 1.0

YAML_TASK = """apiVersion: mloc/v1
kind: Task
metadata:
  name: echo
spec:
  taskType: echo
  data:
    type: list
    items:
      - "%s"
"""
JSON_TASK = '{"apiVersion":"mloc/v1","kind":"Task","metadata":{"name":"echo"},"spec":{"taskType":"echo","data":{"type":"list","items":["%s"]}}}'

Figures = dict[str, Any]


async def submissions(contestant: Contestant, world: World, tasks: int, workers: int) -> Figures:
    """Tasks a second that the client gets acknowledged, while nothing consumes them."""
    await contestant.submit_one_by_one(payloads(WARM_UP, "warm"))
    figures: Figures = {}
    meter = CpuMeter(world.roots())
    seconds = await _timed(contestant.submit_one_by_one(payloads(tasks, "single")))
    figures["one_by_one_per_sec"] = tasks / seconds
    if contestant.submits_batches:
        await contestant.submit_batches(payloads(WARM_UP, "warm-batch"))
        seconds = await _timed(contestant.submit_batches(payloads(tasks * 4, "batch")))
        figures["in_batches_per_sec"] = tasks * 4 / seconds
    return {**figures, "foreign_cores": meter.foreign_cores()}


async def end_to_end(contestant: Contestant, world: World, tasks: int, workers: int) -> Figures:
    """Tasks a second from the first submission to the last result read; CPU time by process."""
    await contestant.start(workers)
    await contestant.end_to_end(payloads(WARM_UP, "warm"))
    texts = payloads(tasks, uuid.uuid4().hex[:8])
    meter = CpuMeter(world.roots())
    seconds = await _timed(contestant.end_to_end(texts))
    foreign = meter.foreign_cores()
    after = await contestant.afterwards(tasks + WARM_UP)
    cpu = {name: round(used / tasks * 1e6, 1) for name, used in meter.used().items()}
    return {"tasks_per_sec": tasks / seconds, "cpu_us_per_task": cpu, "foreign_cores": foreign, **after}


async def idle(contestant: Contestant, world: World, tasks: int, workers: int) -> Figures:
    """Milliseconds from submission to result for one task at a time."""
    await contestant.start(workers)
    for text in payloads(30, "warm"):
        await contestant.one(text)
    meter = CpuMeter(world.roots())
    taken = []
    for text in payloads(tasks, uuid.uuid4().hex[:8]):
        await asyncio.sleep(PAUSE_SEC)
        taken.append(await _timed(contestant.one(text)) * 1000)
    return {"p50_ms": percentile(taken, 0.5), "p99_ms": percentile(taken, 0.99), "foreign_cores": meter.foreign_cores()}


async def kill(contestant: Contestant, world: World, tasks: int, workers: int) -> Figures:
    """Seconds until 500 tasks of 20 ms, one at a time, are done, when the worker is killed on the way and comes back after a second."""
    await contestant.start(1, one_at_a_time=True)
    meter = CpuMeter(world.roots())

    async def disturb() -> None:
        await asyncio.sleep(KILL_AFTER_SEC)
        world.kill("worker-1")
        await asyncio.sleep(RESTART_AFTER_SEC)
        contestant.restart_worker()

    done = asyncio.to_thread(asyncio.run, _in_own_loop(contestant, world))
    seconds = await _timed(asyncio.gather(done, disturb()))
    ideal = KILL_TASKS * KILL_TASK_MS / 1000 + RESTART_AFTER_SEC
    return {"all_done_sec": seconds, "ideal_sec": ideal, "late_sec": seconds - ideal, "foreign_cores": meter.foreign_cores()}


async def reading(contestant: Contestant, world: World, tasks: int, workers: int) -> Figures:
    """Task files of one task with a text of 1 KB, read and checked in a second, as YAML and as JSON."""
    text = payloads(1, "file")[0]
    sources = {
        "yaml_per_sec": YAML_TASK % text,
        "json_per_sec": JSON_TASK % text,
    }
    figures = {}
    for name, source in sources.items():
        read_tasks(source)
        began = time.perf_counter()
        for _ in range(tasks):
            read_tasks(source)
        figures[name] = tasks / (time.perf_counter() - began)
    return figures


async def fold(contestant: Contestant, world: World, tasks: int, workers: int) -> Figures:
    """Events a second that a replay reads from the server and folds; without the reading; and in how many events a task results."""
    assert isinstance(contestant, MlocSpine)
    await contestant.start(workers)
    await contestant.end_to_end(payloads(tasks, uuid.uuid4().hex[:8]))
    for name in set(world.roots()) - {"server"}:
        world.kill(name)
    collect_seldom()
    replayed, began = Cluster(), time.perf_counter()
    entries = []
    while batch := await contestant.log.read(replayed.position):
        entries += batch
        for entry in batch:
            evolve(replayed, entry.id, codec.decode(entry.type, entry.payload))
    from_server = time.perf_counter() - began
    folded, began = Cluster(), time.perf_counter()
    for entry in entries:
        evolve(folded, entry.id, codec.decode(entry.type, entry.payload))
    from_memory = time.perf_counter() - began
    assert folded.digest() == replayed.digest()
    count = len(entries)
    return {"replayed_per_sec": count / from_server, "decoded_and_folded_per_sec": count / from_memory, "events_per_task": count / tasks}


async def _in_own_loop(contestant: Contestant, world: World) -> None:
    """The client on a thread and loop of its own: some clients block, and the killing must not wait for them."""
    async with asyncio.timeout(150):
        client = type(contestant)(contestant.name, world)
        await client.open()
        await client.end_to_end(payloads(KILL_TASKS, uuid.uuid4().hex[:8]), KILL_TASK_MS)
        await client.close()


FIGURES: dict[str, Callable[[Contestant, World, int, int], Awaitable[Figures]]] = {
    "submissions": submissions, "end_to_end": end_to_end, "idle": idle, "kill": kill, "reading": reading, "fold": fold,
}  # fmt: skip


async def _timed(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def run(options: argparse.Namespace) -> Figures:
    world = World(options.base, durability_of(options.contestant))
    await world.open()
    contestant = by_name(options.contestant, world)
    try:
        await contestant.open()
        return await FIGURES[options.figure](contestant, world, options.tasks, options.workers)
    finally:
        await contestant.close()
        await world.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="One trial of the benchmark.")
    parser.add_argument("contestant")
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--base", type=Path, required=True)
    print(msgspec.json.encode(asyncio.run(run(parser.parse_args()))).decode())


if __name__ == "__main__":
    main()
