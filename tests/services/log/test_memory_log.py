"""What the simulation needs of the event log in memory: a clock that is given, faults at will, protections that can be taken out."""

from __future__ import annotations

import asyncio

import pytest

from mloc.services.log.event_log import AlreadyCommitted, Entry, Fenced, Heartbeat, IncarnationLost, LeaseHeld, LogUnavailable, ServerChanged
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_records import Writer
from mloc.services.log.memory_server import MemoryServer
from tests.services.log.log_worlds import cancelled, dispatch, everything, leading, recall, registered, started, submitted, types


class Clock:
    def __init__(self) -> None:
        self.now = 1000

    def __call__(self) -> int:
        return self.now


async def test_the_same_calls_give_the_same_log() -> None:
    async def history() -> list[Entry]:
        clock = Clock()
        log = MemoryLog(MemoryServer(clock))
        leader = await leading(log)
        await log.register(registered(), "nonce", 1000)
        clock.now += 5
        await leader.commit(dispatch("a"), dispatch("b"))
        return await everything(log)

    first = await history()
    assert first == await history()
    assert [entry.id for entry in first] == ["1000-0", "1000-1", "1000-2", "1005-0", "1005-1"]


async def test_ids_grow_also_where_the_clock_goes_back() -> None:
    clock = Clock()
    log = MemoryLog(MemoryServer(clock))
    await log.submit([submitted("a")])
    clock.now -= 500
    assert (await log.submit([submitted("b")])).last_id == "1000-2"


async def test_a_lease_ends_by_the_servers_clock() -> None:
    clock = Clock()
    log = MemoryLog(MemoryServer(clock))
    await log.lease("scheduler", "one")
    clock.now += 1999
    with pytest.raises(LeaseHeld):
        await log.lease("scheduler", "two")
    clock.now += 1
    await log.lease("scheduler", "two")


@pytest.mark.parametrize(("moment", "arrived"), [("request", 0), ("reply", 1)])
async def test_a_call_can_fail_before_or_after_it_took_effect(moment: str, arrived: int) -> None:
    server = MemoryServer(Clock())
    failing = {"submit"}

    async def wait(at: str, call: str) -> None:
        if at == moment and call in failing:
            failing.remove(call)
            raise LogUnavailable("cut")

    log = MemoryLog(server, wait)
    with pytest.raises(LogUnavailable):
        await log.submit([submitted("a")], key="k", body_sha256="b")
    assert len(server.state.entries) == 2 * arrived
    assert (await log.submit([submitted("a")], key="k", body_sha256="b")).repeated == bool(arrived)


async def test_the_audit_sees_each_entry_and_its_writer() -> None:
    seen: list[tuple[str, Writer]] = []
    log = MemoryLog(MemoryServer(Clock(), audit=lambda entry, writer: seen.append((entry.type, writer))))
    leader = await leading(log)
    await log.register(registered(), "nonce", 1000)
    await leader.commit(dispatch("a"))
    assert [type_ for type_, _ in seen] == await types(log)
    assert seen[-1][1] == Writer("commit", "scheduler", 1, 1, "w", 1)


# --- runs ---


async def test_a_stopped_server_answers_nobody_and_breaks_blocked_reads() -> None:
    server = MemoryServer(Clock())
    log = MemoryLog(server)
    last = (await log.submit([submitted("a")])).last_id
    reading = asyncio.create_task(log.read(last, block_ms=1000))
    await asyncio.sleep(0)
    server.stop()
    with pytest.raises(LogUnavailable):
        await reading
    with pytest.raises(LogUnavailable):
        await log.run_id()
    server.restart()
    with pytest.raises(ServerChanged):
        await log.read(last)
    assert await log.run_id() == "run-2"
    assert await log.read(last) == []


async def test_a_lost_tail_takes_all_that_its_writes_did() -> None:
    server = MemoryServer(Clock())
    log = MemoryLog(server)
    leader = await leading(log)
    await log.register(registered(), "nonce", 60_000)
    await leader.commit(cancelled("x"))
    before, commit_no = await everything(log), leader.commit_no
    await leader.commit(dispatch("a"), cancelled("y"), cancelled("z"))
    await log.read_inbox("w", 1)
    server.restart(lose_tail=1)  # a write is lost whole
    assert await everything(log) == before
    assert await log.read_inbox("w", 1, pending_after="0-0") == []
    assert server.state.leaders["scheduler"].commit_no == commit_no
    await log.lease("scheduler", "one")
    assert (await types(log))[-2:] == ["ServerRestarted", "LeaderElected"]


async def test_a_server_can_lose_everything() -> None:
    server = MemoryServer(Clock())
    log = MemoryLog(server)
    await leading(log)
    server.restart(lose_tail=100)
    assert await everything(log) == []
    await log.lease("scheduler", "one")
    assert await types(log) == ["LogStarted", "LeaderElected"]


async def test_a_restart_while_a_call_is_under_way_breaks_it() -> None:
    server = MemoryServer(Clock())

    async def wait(at: str, call: str) -> None:
        if (at, call) == ("reply", "submit"):
            server.restart()

    with pytest.raises(LogUnavailable):
        await MemoryLog(server, wait).submit([submitted("a")])
    assert len(server.state.entries) == 2


# --- mutants ---


async def test_without_the_epoch_check_a_replaced_leader_commits() -> None:
    for without, refused in ((frozenset[str](), True), (frozenset({"epoch"}), False)):
        clock = Clock()
        log = MemoryLog(MemoryServer(clock, without=without))  # type: ignore[arg-type]
        old = await leading(log)
        clock.now += 5000
        await log.lease("scheduler", "two")
        if refused:
            with pytest.raises(Fenced):
                await old.commit(cancelled("a"))
        else:
            await old.commit(cancelled("a"))


async def test_without_commit_numbers_a_repeated_commit_writes_twice() -> None:
    for without, refused in ((frozenset[str](), True), (frozenset({"commit number"}), False)):
        leader = await leading(MemoryLog(MemoryServer(Clock(), without=without)))  # type: ignore[arg-type]
        await leader.commit(cancelled("a"))
        leader.commit_no -= 1
        if refused:
            with pytest.raises(AlreadyCommitted):
                await leader.commit(cancelled("a"))
        else:
            await leader.commit(cancelled("a"))


async def test_without_the_check_in_start_a_recalled_dispatch_runs() -> None:
    for without, runs in ((frozenset[str](), False), (frozenset({"check in start"}), True)):
        log = MemoryLog(MemoryServer(Clock(), without=without))  # type: ignore[arg-type]
        leader = await leading(log)
        await log.register(registered(), "nonce", 60_000)
        last = await leader.commit(dispatch("a"))
        await log.read_inbox("w", 1)
        await leader.commit(recall("a", last))
        assert await log.start("w", 1, [(last, started("a"))]) == [runs]


async def test_without_the_lost_answer_a_replaced_worker_lives_on() -> None:
    log = MemoryLog(MemoryServer(Clock(), without=frozenset({"lost answer"})))
    await log.register(registered(), "nonce", 60_000)
    await log.register(registered(incarnation=2), "nonce", 60_000)
    await log.heartbeat(Heartbeat("w", 1), 1000)
    with pytest.raises(IncarnationLost):  # its inbox is gone all the same
        await log.read_inbox("w", 1)
