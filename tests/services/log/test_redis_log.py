"""The event log on a real server that dies, stands still, forgets, fills up or becomes a replica."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import redis

from mloc.core.events import ServerRestarted
from mloc.services.log.event_log import EventLog, Heartbeat, IncarnationLost, LogUnavailable, ServerChanged, Submitted
from mloc.services.log.redis_log import RedisLog
from tests.log_server import LogServer
from tests.services.log.log_worlds import cancelled, dispatch, events, everything, leading, registered, started, submitted, succeeded, types

DEADLINE_SEC = 20


@pytest.fixture
def server() -> Iterator[LogServer]:
    """One of the test's own, that writes each acknowledged entry to disk."""
    server = LogServer(durability="always")
    server.start()
    yield server
    server.close()


@pytest_asyncio.fixture
async def log(server: LogServer) -> AsyncIterator[RedisLog]:
    log = RedisLog(server.url, patience_sec=10)
    yield log
    await log.close()


async def after_trouble(call: object) -> object:
    """The result of a call that is repeated while the log is not there, as callers do."""
    async with asyncio.timeout(DEADLINE_SEC):
        while True:
            try:
                return await call()  # type: ignore[operator]
            except LogUnavailable:
                await asyncio.sleep(0.01)


# --- a server that dies ---


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(server: LogServer) -> None:
    acknowledged: set[str] = set()
    stop = asyncio.Event()

    async def append_for_ever(name: str) -> None:
        log = RedisLog(server.url, patience_sec=10)
        number = 0
        while not stop.is_set():
            task = f"{name}.{number}"
            answer = await after_trouble(lambda task=task: log.submit([submitted(task)], key=task, body_sha256="b"))
            assert isinstance(answer, Submitted)
            assert answer.tasks == (task,)
            acknowledged.add(task)
            number += 1
        await log.close()

    appenders = [asyncio.create_task(append_for_ever(f"a{i}")) for i in range(4)]
    for kill in range(1, 4):
        async with asyncio.timeout(DEADLINE_SEC):
            while len(acknowledged) < kill * 100:
                await asyncio.sleep(0.005)
        server.kill()
        await asyncio.to_thread(server.start)
    stop.set()
    await asyncio.gather(*appenders)
    reader = RedisLog(server.url)
    in_log = [event.task for event in await events(reader, type(submitted("x")))]
    await reader.close()
    assert len(in_log) == len(set(in_log)), "a submission that was repeated after a lost reply is in the log twice"
    assert acknowledged <= set(in_log)


async def test_a_call_in_flight_fails_at_once_and_the_next_one_waits_for_the_server(server: LogServer, log: RedisLog) -> None:
    last = (await log.submit([submitted("a")])).last_id
    blocked = asyncio.create_task(log.read(last, block_ms=1000))
    await asyncio.sleep(0.01)
    server.kill()
    with pytest.raises(LogUnavailable):
        await asyncio.wait_for(blocked, 0.9)
    waiting = asyncio.create_task(log.submit([submitted("b")]))
    await asyncio.sleep(0.01)
    await asyncio.to_thread(server.start)
    assert (await waiting).tasks == ("b",)


async def test_without_a_server_a_call_says_what_to_do(server: LogServer) -> None:
    log = RedisLog(server.url, patience_sec=0.1)
    server.kill()
    with pytest.raises(LogUnavailable, match=r"does the server run.*mloc up"):
        await log.ends()
    await log.close()


# --- another run of the server ---


async def test_who_goes_on_from_before_is_told_of_a_new_run_until_he_looks(server: LogServer, log: RedisLog) -> None:
    leader = await leading(log)
    await log.register(registered(), "nonce", 60_000)
    last = await leader.commit(dispatch("a"))
    await log.read_inbox("w", 1)
    server.restart()
    going_on = [
        lambda: log.read(last), lambda: log.read(last, block_ms=10), lambda: log.renew("scheduler", 1), lambda: leader.commit(),
        lambda: log.start("w", 1, [(last, started("a"))]), lambda: log.report("w", 1, 1, [succeeded("a", 1)]),
        lambda: log.heartbeat(Heartbeat("w", 1), 1000), lambda: log.read_inbox("w", 1),
    ]  # fmt: skip
    for call in going_on:
        with pytest.raises(ServerChanged):
            await after_trouble(call)
    await log.submit([submitted("b")])
    assert await log.entry(last) is not None  # says nothing of the run
    await log.run_id()  # looks
    for call in going_on:
        await call()


async def test_the_new_run_is_in_the_log_when_a_leader_comes_back(server: LogServer, log: RedisLog) -> None:
    before = await leading(log)
    server.restart()
    after = await after_trouble(lambda: leading(log))
    (restarted,) = await events(log, ServerRestarted)
    assert restarted.run_id == after.lease.run_id != before.lease.run_id  # type: ignore[attr-defined]
    await leading(log)
    assert (await types(log)).count("ServerRestarted") == 1


async def test_a_lost_tail_is_noticed(server: LogServer, log: RedisLog) -> None:
    """The disk of an hour ago comes back: the entry that was folded last is not in the log any more."""
    kept_last = (await log.submit([submitted("a")])).last_id
    await after_trouble(lambda: leading(log))
    kept = server.keep_disk()
    last = (await log.submit([submitted("b")])).last_id
    assert len(await log.read(kept_last)) == 2
    server.kill()
    server.restore_disk(kept)
    server.start()
    with pytest.raises(ServerChanged):
        await after_trouble(lambda: log.read(last))
    assert await log.entry(last) is None
    assert await log.entry(kept_last) is not None
    await log.lease("scheduler", "one")
    assert (await types(log))[-2:] == ["ServerRestarted", "LeaderElected"]


async def test_one_who_only_submits_goes_on_over_restarts(server: LogServer, log: RedisLog) -> None:
    await log.submit([submitted("a")])
    server.restart()
    await after_trouble(lambda: log.submit([submitted("b")]))
    assert (await types(log)).count("TaskSubmitted") == 2


# --- a server that stands still, forgets, fills up, or serves another ---


async def test_a_server_that_stands_still_is_given_up_and_found_again(server: LogServer) -> None:
    log = RedisLog(server.url, patience_sec=0.2, reply_timeout_sec=0.3)
    await log.submit([submitted("a")])
    server.pause()
    began = time.monotonic()
    with pytest.raises(LogUnavailable, match="did not answer"):
        await log.submit([submitted("b")], key="b", body_sha256="b")
    with pytest.raises(LogUnavailable):
        await log.read("0-0", block_ms=10)
    assert time.monotonic() - began < 5
    server.resume()
    await after_trouble(lambda: log.submit([submitted("b")], key="b", body_sha256="b"))
    assert (await types(log)).count("TaskSubmitted") == 2
    await log.close()


async def test_scripts_are_loaded_again_when_the_server_forgot_them(server: LogServer, log: RedisLog) -> None:
    await log.submit([submitted("a")])
    with redis.Redis.from_url(server.url) as raw:
        raw.script_flush()
    assert len(await log.submit_each([[submitted(f"t{i}")] for i in range(300)])) == 300
    assert (await types(log)).count("TaskSubmitted") == 301


async def test_a_full_memory_is_a_clear_refusal_and_writes_nothing(server: LogServer, log: RedisLog) -> None:
    leader = await leading(log)
    await log.register(registered(), "nonce", 60_000)
    last = await leader.commit(dispatch("a"))
    await log.read_inbox("w", 1)
    before = await everything(log)
    with redis.Redis.from_url(server.url) as raw:
        raw.config_set("maxmemory", 1)
        for call in (
            lambda: log.submit([submitted("b")], key="k", body_sha256="b"), lambda: leader.commit(cancelled("a")),
            lambda: log.start("w", 1, [(last, started("a"))]), lambda: log.report("w", 1, 1, [succeeded("a", 1, entry_id=last)]),
            lambda: log.register(registered(incarnation=2), "nonce", 1000), lambda: log.lease("scheduler", "one"),
        ):  # fmt: skip
            with pytest.raises(LogUnavailable, match="out of memory"):
                await call()
        assert await everything(log) == before
        assert len(await log.read_inbox("w", 1, pending_after="0-0")) == 1
        raw.config_set("maxmemory", 0)
    assert await log.start("w", 1, [(last, started("a"))]) == [True]
    await leader.commit(cancelled("a"))
    assert not (await log.submit([submitted("b")], key="k", body_sha256="b")).repeated


async def test_a_replica_takes_no_writes_and_the_primary_is_found_again(server: LogServer, log: RedisLog) -> None:
    await log.submit([submitted("a")])
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(LogUnavailable, match="replica"):
            await log.submit([submitted("b")])
        raw.execute_command("REPLICAOF", "NO", "ONE")
    await after_trouble(lambda: log.submit([submitted("b")]))


async def test_a_wrong_password_is_told_at_once(server: LogServer) -> None:
    with redis.Redis.from_url(server.url) as raw:
        raw.config_set("requirepass", "secret")
    log = RedisLog(server.url, patience_sec=10)
    wrong = RedisLog(f"{server.url}?password=wrong", patience_sec=10)
    for client in (log, wrong):
        async with asyncio.timeout(2):
            with pytest.raises(LogUnavailable, match="password"):
                await client.ends()
        await client.close()
    right = RedisLog(f"{server.url}?password=secret")
    assert await right.ends() == ("0-0", "0-0")
    await right.close()


async def test_a_server_that_is_no_redis_is_told_at_once() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as web:
        port = web.sockets[0].getsockname()[1]
        log = RedisLog(f"redis://127.0.0.1:{port}", patience_sec=10)
        async with asyncio.timeout(2):
            with pytest.raises(LogUnavailable, match=f"127.0.0.1:{port} is neither Redis nor Valkey .*: correct REDIS_URL"):
                await log.ends()
        await log.close()


# --- one connection for many ---


async def test_many_callers_share_one_connection(redis_log: RedisLog, valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as raw:
        before = raw.info("clients")["connected_clients"]
        answers = await asyncio.gather(*[redis_log.submit([submitted(f"t{i}")], key=f"k{i}", body_sha256="b") for i in range(500)])
        assert raw.info("clients")["connected_clients"] == before + 1
    assert [answer.tasks[0] for answer in answers] == [f"t{i}" for i in range(500)]


async def test_a_caller_who_leaves_disturbs_no_other(redis_log: RedisLog) -> None:
    calls = [asyncio.create_task(redis_log.submit([submitted(f"t{i}")])) for i in range(50)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [answer.tasks[0] for answer in done[1::2] if isinstance(answer, Submitted)] == [f"t{i}" for i in range(1, 50, 2)]


async def test_blocked_reads_hinder_no_command(redis_log: RedisLog) -> None:
    last = (await redis_log.submit([submitted("a")])).last_id
    await redis_log.register(registered(), "nonce", 60_000)
    blocked = [asyncio.create_task(redis_log.read_inbox("w", 1, block_ms=1000)) for _ in range(5)]
    began = time.monotonic()
    assert len(await redis_log.read(last)) == 1
    assert time.monotonic() - began < 0.5
    for read in blocked:
        read.cancel()
    await asyncio.wait(blocked)


async def test_an_inbox_that_is_deleted_wakes_its_reader(redis_log: RedisLog) -> None:
    await redis_log.register(registered(), "nonce", 60_000)
    reading = asyncio.create_task(redis_log.read_inbox("w", 1, block_ms=1000))
    await asyncio.sleep(0.01)
    await redis_log.register(registered(incarnation=2), "nonce", 60_000)
    with pytest.raises(IncarnationLost):
        await reading


async def test_namespaces_share_a_server_and_nothing_else(valkey_url: str, namespace: str, redis_log: RedisLog) -> None:
    other: EventLog = RedisLog(valkey_url, f"{namespace}-2")
    await redis_log.submit([submitted("a")])
    assert await other.ends() == ("0-0", "0-0")
    await other.close()


async def test_an_entry_can_be_read_with_the_servers_own_client(redis_log: RedisLog, valkey_url: str, namespace: str) -> None:
    last = (await redis_log.submit([submitted("a")])).last_id
    with redis.Redis.from_url(valkey_url, decode_responses=True) as raw:
        ((id, fields),) = raw.xrange(f"{{{namespace}}}:events", last, last)
    assert id == last
    assert fields == {"type": "TaskSubmitted", "data": '{"type":"TaskSubmitted","task":"a","task_type":"echo"}'}
