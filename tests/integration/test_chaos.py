"""1,000 tasks while scheduler, aggregator, worker and server are each killed -9 five times at random moments: every task ends exactly once, no
result is missing, and the state folded anew from the log is the one that the services had.

The seed is printed; MLOC_CHAOS_SEED sets it. MLOC_KEEP_CELLS=1 keeps the folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter

import pytest

from mloc.core import codec, log_ids
from mloc.core.cluster import Cluster
from mloc.core.events import AttemptStarted, ResultPublished, TaskDispatched, TaskSubmitted
from mloc.core.fold import evolve
from mloc.services.log import snapshots
from mloc.services.log.event_log import Entry
from mloc.services.log.redis_log import RedisLog
from mloc.services.results.folders import is_tree_complete
from mloc.services.server.record import find_server
from tests.integration.whole_cell import WholeCell, echo_task

TASKS = 1000
IN_A_FILE = 10
KILLED = ("scheduler", "aggregator", "worker-1", "server")
KILLS_EACH = 5
DEADLINE_SEC = 240.0
DECIDING = ("scheduler", "aggregator")


@pytest.mark.deep
@pytest.mark.timeout(580)
def test_every_task_ends_exactly_once_while_everything_is_killed() -> None:
    seed = int(os.environ.get("MLOC_CHAOS_SEED") or random.SystemRandom().randrange(2**32))
    print(f"\nchaos seed {seed}; the same again: MLOC_CHAOS_SEED={seed}")
    cell = WholeCell(STATE_FLUSH_INTERVAL_SEC="0.5", LOG_LEVEL="INFO")
    try:
        expected = _submit_while_killing(cell, random.Random(seed))
        entries = asyncio.run(_log_when_all_ended(cell, len(expected)))
        _check_log(entries, set(expected))
        cluster = _fold(entries)
        _check_results(cell, cluster, expected)
        asyncio.run(_check_digests(cell))
        said = cell.command("mloc.replay.cli", "verify", "--require", "scheduler,aggregator", timeout_sec=DEADLINE_SEC)
        assert said.returncode == 0, said.stdout + said.stderr
        assert "Traceback" not in cell.output()
        assert cell.stop() == 0
    except BaseException:
        print(f"chaos seed {seed}: {cell.folder}\n{cell.output()[-4000:]}")
        raise
    finally:
        cell.close()


def _submit_while_killing(cell: WholeCell, chance: random.Random) -> dict[str, str]:
    """Task → what its result must hold. Kills are spread at random over the submissions."""
    files = TASKS // IN_A_FILE
    kills = [name for name in KILLED for _ in range(KILLS_EACH)]
    chance.shuffle(kills)
    moments = sorted(chance.sample(range(files), len(kills)))
    expected: dict[str, str] = {}
    began = time.monotonic()
    for number in range(files):
        names = [f"task{number}x{index}" for index in range(IN_A_FILE)]
        slow = chance.randrange(IN_A_FILE) if number % 4 == 0 else -1  # some are in a host when it happens
        yaml = "---\n".join(echo_task(name, "  echo: {sleep_sec: 0.1}\n" if index == slow else "") for index, name in enumerate(names))
        ids = cell.submit(yaml, f"file-{number}", DEADLINE_SEC)
        assert len(ids) == IN_A_FILE
        expected |= dict(zip(ids, names, strict=True))
        if moments and moments[0] == number:
            moments.pop(0)
            time.sleep(chance.random() * 0.2)
            cell.kill(kills.pop(), DEADLINE_SEC)
    assert not kills
    print(f"{TASKS} tasks submitted, {len(KILLED) * KILLS_EACH} kills, {time.monotonic() - began:.1f} s")
    return expected


async def _log_when_all_ended(cell: WholeCell, tasks: int) -> list[Entry]:
    """Every entry of the log, when as many tasks have ended."""
    url = find_server(cell.state)
    assert url is not None
    log = RedisLog(url)
    entries: list[Entry] = []
    published: set[str] = set()
    deadline = time.monotonic() + DEADLINE_SEC
    try:
        while len(published) < tasks:
            assert time.monotonic() < deadline, f"{len(published)} of {tasks} tasks ended; {Counter(_fold(entries).counts())}"
            new = await log.read(entries[-1].id if entries else log_ids.START, block_ms=500)
            entries += new
            published |= {event.task for entry in new if isinstance(event := codec.decode(entry.type, entry.payload), ResultPublished)}
    finally:
        await log.close()
    return entries


def _check_log(entries: list[Entry], tasks: set[str]) -> None:
    """Nothing that was accepted is missing; no attempt number was dispatched or started twice; each task ended once."""
    events = [codec.decode(entry.type, entry.payload) for entry in entries]
    submitted = Counter(event.task for event in events if isinstance(event, TaskSubmitted))
    published = Counter(event.task for event in events if isinstance(event, ResultPublished))
    dispatched = Counter((event.task, event.attempt) for event in events if isinstance(event, TaskDispatched))
    started = Counter((event.task, event.attempt) for event in events if isinstance(event, AttemptStarted))
    assert set(submitted) == tasks
    for counted in (submitted, published, dispatched, started):
        assert set(counted.values()) == {1}, counted.most_common(3)
    assert set(published) == tasks


def _check_results(cell: WholeCell, cluster: Cluster, expected: dict[str, str]) -> None:
    """The tree of each task is there, and is that of the attempt that won; the API gives the same."""
    assert cluster.counts() == {"published": len(expected)}
    for id, name in expected.items():
        task = cluster.tasks[id]
        cell.until(lambda task=task: is_tree_complete(cell.results, task), DEADLINE_SEC)  # type: ignore[misc]
        result = json.loads((cell.results / id / "responses.json").read_text())
        assert [item["output"] for item in result["items"]] == [name]
        manifest = json.loads((cell.results / id / "manifest.json").read_text())
        assert (manifest["result_id"], manifest["worker"]) == (task.result_id, task.worker)
    some = next(iter(expected))
    assert cell.http("GET", f"/api/v1/results/{some}")[1]["ok"] is True
    assert {path.name for path in cell.results.iterdir() if not path.name.startswith(".")} == set(expected)


async def _check_digests(cell: WholeCell) -> None:
    """The log, folded anew to where each service made its newest snapshot, gives the state with the digest that it wrote down."""
    url = find_server(cell.state)
    assert url is not None
    log = RedisLog(url)
    try:
        entries: list[Entry] = []
        while new := await log.read(entries[-1].id if entries else log_ids.START):
            entries += new
    finally:
        await log.close()
    for service in DECIDING:
        snapshot = snapshots.newest_good(cell.state / "snapshots", service)
        assert snapshot is not None, f"{service} has no snapshot"
        folded = _fold([entry for entry in entries if not log_ids.before(snapshot.header.id, entry.id)])
        assert folded.position == snapshot.header.id
        assert folded.digest() == snapshot.header.state_digest, f"{service} at {snapshot.header.id}"


def _fold(entries: list[Entry]) -> Cluster:
    cluster = Cluster()
    for entry in entries:
        evolve(cluster, entry.id, codec.decode(entry.type, entry.payload))
    return cluster
