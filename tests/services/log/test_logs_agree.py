"""The log in memory, on which the simulation stands, answers like the scripts on a real server: random histories, call by call."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mloc.core.events import EngineReady, WorkerRetired
from mloc.services.log.event_log import AlreadyCommitted, Backlog, Entry, EventLog, Heartbeat, InboxEntry, Lease, LogError, Report, Submitted
from tests.services.log.log_worlds import MemoryWorld, RedisWorld, World, cancelled, dispatch, everything, lost, recall, registered, started, stop
from tests.services.log.log_worlds import submitted as task_submitted
from tests.services.log.log_worlds import succeeded as report_of

WORKERS, NONCES, KEYS, BODIES, HOLDERS = ("w",) * 6 + ("v",), ("n1",) * 4 + ("n2",), ("", "", "k1", "k2"), ("b1", "b2"), ("one", "two")
CALLS = {
    "submit": 3, "lease": 3, "expire": 1, "commit": 10, "register": 3, "retire": 0.3, "forget": 1, "heartbeat": 2,
    "inbox": 8, "pending": 3, "start": 8, "report": 6, "acknowledge": 1,
}  # fmt: skip
ANSWERS = {"dispatch": 10, "recall": 5, "stop": 2, "lost": 0.3, "cancel": 2}
ALIVE_MS = 600_000


class Call:
    """One call of a history, made on both logs. Ids differ between them: an entry is named by its place in the log."""

    def __init__(self, chance: random.Random, length: int, dispatched: list[int], newest: int, commit_no: int, epoch: int) -> None:
        pick = chance.choice
        (self.name,) = chance.choices(list(CALLS), list(CALLS.values()))
        self.worker = pick(WORKERS)
        self.incarnation = max(1, newest + pick((0, 0, 0, 0, 0, 0, 1, -1) if self.name != "register" else (1, 1, 0, -1)))
        recent = dispatched[-6:]
        self.places = [pick(recent) if recent and chance.random() < 0.9 else chance.randrange(length + 1) for _ in range(chance.randint(1, 4))]
        self.key, self.body, self.nonce, self.holder = pick(KEYS), pick(BODIES), pick(NONCES), pick(HOLDERS)
        self.limit, self.count, self.seq = pick((0, 0, 5, 20)), chance.randint(1, 3), chance.randint(1, 9)
        self.commit_no, self.epoch = commit_no + pick((0,) * 8 + (-1, 1)), epoch + pick((0,) * 10 + (-1,))
        self.kinds = chance.choices(list(ANSWERS), list(ANSWERS.values()), k=len(self.places))
        self.backlog = pick((None, None, Backlog(0, 0), Backlog(4, 2), Backlog(1, 9)))

    async def make(self, world: World, log: EventLog, ids: list[str]) -> Any:
        named = [ids[place] if place < len(ids) else "9-9" for place in self.places]
        worker, incarnation = self.worker, self.incarnation
        match self.name:
            case "submit":
                events = [task_submitted(f"t{i}") for i in range(self.count)]
                return await log.submit(events, key=self.key, body_sha256=self.body, backlog_limit=self.limit)
            case "lease":
                return await log.lease("scheduler", self.holder)
            case "expire" | "forget":
                try:
                    return world.expire_lease("scheduler") if self.name == "expire" else world.forget_life(worker)
                except KeyError:
                    return None
            case "commit":
                answers = [self._answer(kind, id) for kind, id in zip(self.kinds, named, strict=True)]
                return await log.commit("scheduler", self.epoch, self.commit_no, named[0], answers, backlog=self.backlog)
            case "register":
                return await log.register(registered(worker, incarnation), self.nonce, ALIVE_MS)
            case "retire":
                return await log.retire(WorkerRetired(worker=worker, incarnation=incarnation))
            case "heartbeat":
                return await log.heartbeat(Heartbeat(worker, incarnation), ALIVE_MS)
            case "inbox":
                return await log.read_inbox(worker, incarnation, count=self.count)
            case "pending":
                return await log.read_inbox(worker, incarnation, pending_after=named[0], count=self.count)
            case "start":
                return await log.start(worker, incarnation, [(id, started("a", worker, incarnation)) for id in named])
            case "report":
                return await log.report(worker, incarnation, self.seq, [self._report(i, id) for i, id in enumerate(named)])
            case "acknowledge":
                return await log.acknowledge(worker, incarnation, named)

    def _answer(self, kind: str, id: str) -> Any:
        worker, incarnation = self.worker, self.incarnation
        match kind:
            case "dispatch":
                return dispatch("a", 1, worker, incarnation)
            case "recall":
                return recall("a", id, worker, incarnation)
            case "stop":
                return stop("a", 1, worker, incarnation)
            case "lost":
                return lost(worker, incarnation)
        return cancelled("a")

    def _report(self, place: int, id: str) -> Report:
        entry_id = id if self.kinds[place] in ("recall", "stop") else ""
        if self.kinds[place] == "cancel":
            return Report(EngineReady(worker=self.worker, incarnation=self.incarnation, engine="e"), entry_id)
        return report_of("a", self.seq + place, self.worker, self.incarnation, entry_id)


class Side:
    """One of the two logs, with names for its entries."""

    def __init__(self, world: World) -> None:
        self.world, self.log = world, world.client()
        self.ids: list[str] = []
        self.dispatched: list[int] = []  # places of what went to workers

    async def make(self, call: Call) -> Any:
        try:
            answer = await call.make(self.world, self.log, self.ids)
        except LogError as error:
            answer = error
        for entry in await self.log.read(self.ids[-1] if self.ids else "0-0", count=1000):
            if entry.type in ("TaskDispatched", "AttemptStopRequested"):
                self.dispatched.append(len(self.ids))
            self.ids.append(entry.id)
        return self.named(answer)

    def place(self, id: str) -> Any:
        return self.ids.index(id) if id in self.ids else id

    def named(self, answer: Any) -> Any:
        match answer:
            case AlreadyCommitted():
                return "already", answer.commit_no, self.place(answer.last_id)
            case LogError():
                return type(answer).__name__
            case Submitted():
                return answer.tasks, self.place(answer.last_id), answer.repeated
            case Lease():
                return answer.epoch, answer.commit_no, self.place(answer.last_id)
            case InboxEntry():
                return self.place(answer.id), answer.type, answer.extra
            case Entry():
                return self.place(answer.id), answer.type
            case list():
                return [self.named(item) for item in answer]
            case str():
                return self.place(answer)
        return answer


async def agree(seed: int, calls: int, valkey_url: str, namespace: str) -> None:
    chance = random.Random(seed)
    memory, real = Side(MemoryWorld()), Side(RedisWorld(valkey_url, namespace))
    commit_no = epoch = 0
    for number in range(calls):
        call = Call(chance, len(memory.ids), memory.dispatched, await memory.log.incarnation("w"), commit_no, epoch)
        if call.name == "expire" and epoch == 0:
            continue  # there is nothing to expire, and a real server would take the field
        if call.name == "forget" and await memory.log.incarnation(call.worker) == 0:
            continue
        answers = await memory.make(call), await real.make(call)
        assert answers[0] == answers[1], f"seed {seed}, call {number}: {vars(call)}"
        match call.name, answers[0]:
            case "lease", (int() as epoch, int() as commit_no, _):
                pass
            case "commit", ("already", int() as commit_no, _):
                pass
            case "commit", int() | "":
                commit_no = call.commit_no + 1
    entries = [await everything(side.log) for side in (memory, real)]
    assert [entry.type for entry in entries[0]] == [entry.type for entry in entries[1]]
    if epoch:
        assert memory.place(memory.world.cursor("scheduler")) == real.place(real.world.cursor("scheduler"))
    await real.world.close()


@pytest.mark.parametrize("seed", range(12))
async def test_a_random_history_is_answered_alike(seed: int, valkey_url: str, namespace: str) -> None:
    await agree(seed, 150, valkey_url, namespace)


@pytest.mark.deep
async def test_many_random_histories_are_answered_alike(valkey_url: str, namespace: str) -> None:
    for seed in range(1000, 1300):
        await agree(seed, 200, valkey_url, f"{namespace}-{seed}")
