"""What the event log promises to a worker: its incarnations, its inbox, its starts and reports; the same on every implementation."""

from __future__ import annotations

import asyncio

import pytest

from mloc.core.events import EngineReady, WorkerRetired
from mloc.services.log.event_log import (
    EventLog,
    Heartbeat,
    InboxEntry,
    IncarnationLost,
    Report,
    TelemetryPoint,
    WorkerRefused,
)
from tests.services.log.log_worlds import (
    Leader,
    World,
    dispatch,
    everything,
    leading,
    lost,
    recall,
    registered,
    started,
    stop,
    submitted,
    succeeded,
    types,
)

ALIVE_MS = 60_000


async def a_leader_and_a_worker(log: EventLog) -> Leader:
    leader = await leading(log)
    await log.register(registered(), "nonce", ALIVE_MS)
    return leader


async def delivered(log: EventLog, leader: Leader, *tasks: str) -> list[InboxEntry]:
    await leader.commit(*[dispatch(task) for task in tasks])
    return await log.read_inbox("w", 1)


# --- incarnations ---


async def test_a_registration_sent_again_appends_one_event(log: EventLog) -> None:
    first = await log.register(registered(), "nonce", ALIVE_MS)
    assert await log.register(registered(), "nonce", ALIVE_MS) == first
    assert await types(log) == ["LogStarted", "WorkerRegistered"]
    assert (await log.incarnation("w"), await log.incarnation("other")) == (1, 0)


async def test_an_id_of_a_living_worker_is_refused_to_another(world: World, log: EventLog) -> None:
    await log.register(registered(), "nonce", ALIVE_MS)
    for incarnation in (1, 2):
        with pytest.raises(WorkerRefused, match="WORKER_ID"):
            await log.register(registered(incarnation=incarnation), "other", ALIVE_MS)
    world.forget_life("w")
    await log.register(registered(incarnation=2), "other", ALIVE_MS)


async def test_a_heartbeat_keeps_the_id(world: World, log: EventLog) -> None:
    await log.register(registered(), "nonce", ALIVE_MS)
    world.forget_life("w")
    await log.heartbeat(Heartbeat("w", 1), ALIVE_MS)
    with pytest.raises(WorkerRefused):
        await log.register(registered(incarnation=2), "other", ALIVE_MS)


async def test_a_worker_that_restarts_registers_at_once_with_its_nonce(log: EventLog) -> None:
    await log.register(registered(), "nonce", ALIVE_MS)
    await log.register(registered(incarnation=2), "nonce", ALIVE_MS)
    assert await log.incarnation("w") == 2


async def test_incarnations_only_grow(world: World, log: EventLog) -> None:
    await log.register(registered(incarnation=5), "nonce", ALIVE_MS)
    with pytest.raises(IncarnationLost, match="newer than 5"):
        await log.register(registered(incarnation=4), "nonce", ALIVE_MS)
    world.forget_life("w")
    with pytest.raises(IncarnationLost):  # the same number, but another worker
        await log.register(registered(incarnation=5), "other", ALIVE_MS)


async def test_a_newer_incarnation_ends_the_one_before(world: World, log: EventLog) -> None:
    leader = await a_leader_and_a_worker(log)
    (entry,) = await delivered(log, leader, "a")
    waiting = asyncio.create_task(world.client().read_inbox("w", 1, block_ms=1000))
    await asyncio.sleep(0.01)
    await log.register(registered(incarnation=2), "nonce", ALIVE_MS)
    with pytest.raises(IncarnationLost):
        await waiting
    with pytest.raises(IncarnationLost):
        await log.start("w", 1, [(entry.id, started("a"))])
    with pytest.raises(IncarnationLost):
        await log.heartbeat(Heartbeat("w", 1), ALIVE_MS)
    assert await log.read_inbox("w", 2) == []


async def test_a_lost_worker_is_revoked_and_its_late_success_still_counts(log: EventLog) -> None:
    leader = await a_leader_and_a_worker(log)
    (entry,) = await delivered(log, leader, "a")
    await log.start("w", 1, [(entry.id, started("a"))])
    await leader.commit(lost())
    with pytest.raises(IncarnationLost):
        await log.heartbeat(Heartbeat("w", 1), ALIVE_MS)
    with pytest.raises(IncarnationLost):
        await log.start("w", 1, [(entry.id, started("a"))])
    with pytest.raises(IncarnationLost):
        await log.read_inbox("w", 1, pending_after="0-0")
    with pytest.raises(IncarnationLost):  # what was revoked does not come back
        await log.register(registered(), "nonce", ALIVE_MS)
    await log.report("w", 1, 1, [succeeded("a", 1, entry_id=entry.id)])
    assert (await types(log))[-2:] == ["WorkerLost", "AttemptSucceeded"]
    await log.register(registered(incarnation=2), "another nonce", ALIVE_MS)


async def test_the_loss_of_an_old_incarnation_spares_the_new_one(log: EventLog) -> None:
    leader = await a_leader_and_a_worker(log)
    await log.register(registered(incarnation=2), "nonce", ALIVE_MS)
    await leader.commit(lost(incarnation=1))
    await log.heartbeat(Heartbeat("w", 2), ALIVE_MS)
    assert await log.read_inbox("w", 2) == []


async def test_a_retired_worker_is_gone_and_its_id_is_free(log: EventLog) -> None:
    await log.register(registered(), "nonce", ALIVE_MS)
    await log.retire(WorkerRetired(worker="w", incarnation=1))
    await log.retire(WorkerRetired(worker="w", incarnation=1))
    assert (await types(log))[-2:] == ["WorkerRegistered", "WorkerRetired"]
    with pytest.raises(IncarnationLost):
        await log.heartbeat(Heartbeat("w", 1), ALIVE_MS)
    await log.register(registered(incarnation=2), "other", ALIVE_MS)


# --- the inbox ---


async def test_a_dispatch_reaches_the_inbox_under_its_events_id(log: EventLog) -> None:
    leader = await a_leader_and_a_worker(log)
    await leader.commit(dispatch("a"), stop("b"))
    entries = await log.read_inbox("w", 1)
    in_log = (await everything(log))[-2:]
    assert [(entry.id, entry.type, entry.payload) for entry in entries] == [tuple(entry) for entry in in_log]
    assert [entry.extra for entry in entries] == [b'{"extra":1}', b""]


async def test_a_blocked_inbox_wakes_with_a_dispatch(world: World, log: EventLog) -> None:
    leader = await a_leader_and_a_worker(log)
    waiting = asyncio.create_task(world.client().read_inbox("w", 1, block_ms=1000))
    await asyncio.sleep(0.01)
    await leader.commit(dispatch("a"))
    assert [entry.type for entry in await waiting] == ["TaskDispatched"]
    assert await log.read_inbox("w", 1, block_ms=10) == []


async def test_what_was_delivered_and_not_ended_is_pending(log: EventLog) -> None:
    leader = await a_leader_and_a_worker(log)
    first, second, third, fourth = await delivered(log, leader, "a", "b", "c", "d")
    await leader.commit(dispatch("e"))  # not delivered yet
    await log.start("w", 1, [(first.id, started("a"))])
    await log.report("w", 1, 1, [succeeded("a", 1, entry_id=first.id)])
    await log.acknowledge("w", 1, [second.id])
    assert await log.read_inbox("w", 1, pending_after="0-0") == [third, fourth]
    assert await log.read_inbox("w", 1, pending_after="0-0", count=1) == [third]
    assert await log.read_inbox("w", 1, pending_after=third.id) == [fourth]


async def test_many_entries_are_acknowledged_at_once(log: EventLog) -> None:
    leader = await a_leader_and_a_worker(log)
    ids: list[str] = []
    for batch in range(9):
        await leader.commit(*[dispatch(f"t{batch}.{i}") for i in range(256)])
        ids += [entry.id for entry in await log.read_inbox("w", 1)]
    await log.acknowledge("w", 1, ids * 4)  # more than a script can unpack
    assert await log.read_inbox("w", 1, pending_after="0-0") == []


# --- recalls and starts ---


async def test_a_start_sent_again_runs_and_appends_one_event(log: EventLog) -> None:
    leader = await a_leader_and_a_worker(log)
    entries = await delivered(log, leader, "a", "b")
    starts = [(entry.id, started(task)) for entry, task in zip(entries, "ab", strict=True)]
    assert await log.start("w", 1, starts[:1]) == [True]
    assert await log.start("w", 1, starts) == [True, True]
    assert (await types(log)).count("AttemptStarted") == 2


async def test_a_recalled_dispatch_never_starts(log: EventLog) -> None:
    leader = await a_leader_and_a_worker(log)
    first, second, third = await delivered(log, leader, "a", "b", "c")
    last = await leader.commit(recall("b", second.id))
    assert (await types(log))[-1] == "AttemptRecalled"
    assert last == (await log.ends())[1]
    starts = [(third.id, started("c")), (second.id, started("b")), (first.id, started("a"))]
    assert await log.start("w", 1, starts) == [True, False, True]


async def test_a_recall_before_delivery_empties_the_inbox(log: EventLog) -> None:
    leader = await a_leader_and_a_worker(log)
    last = await leader.commit(dispatch("a"))
    await leader.commit(recall("a", last))
    assert await log.read_inbox("w", 1) == []


async def test_a_started_dispatch_is_not_recalled(log: EventLog) -> None:
    leader = await a_leader_and_a_worker(log)
    (entry,) = await delivered(log, leader, "a")
    await log.start("w", 1, [(entry.id, started("a"))])
    last = await leader.commit(recall("a", entry.id))
    assert "AttemptRecalled" not in await types(log)
    assert last == (await log.ends())[1]  # something was skipped: read on before the next decision
    await log.report("w", 1, 1, [succeeded("a", 1, entry_id=entry.id)])
    await leader.commit(recall("a", entry.id))  # it has ended
    assert "AttemptRecalled" not in await types(log)


async def test_a_recall_is_done_once_and_counts_also_for_nobody(log: EventLog) -> None:
    leader = await a_leader_and_a_worker(log)
    (entry,) = await delivered(log, leader, "a")
    await leader.commit(recall("a", entry.id), recall("a", entry.id), recall("a", entry.id, worker="nobody"))
    assert (await types(log)).count("AttemptRecalled") == 1


@pytest.mark.parametrize("then", ["not delivered", "ended", "never there"])
async def test_what_is_not_pending_does_not_start(log: EventLog, then: str) -> None:
    leader = await a_leader_and_a_worker(log)
    last = await leader.commit(dispatch("a"))
    if then == "ended":
        await log.read_inbox("w", 1)
        await log.start("w", 1, [(last, started("a"))])
        await log.report("w", 1, 1, [succeeded("a", 1, entry_id=last)])
    before = await types(log)
    assert await log.start("w", 1, [("5-0" if then == "never there" else last, started("a"))]) == [False]
    assert await types(log) == before


async def test_a_worker_that_never_registered_starts_nothing(log: EventLog) -> None:
    await log.submit([submitted("a")])
    with pytest.raises(IncarnationLost):
        await log.start("w", 1, [("5-0", started("a"))])


# --- reports ---


async def test_reports_that_were_seen_append_nothing(log: EventLog) -> None:
    await log.register(registered(), "nonce", ALIVE_MS)
    reports = [succeeded("a", 1), Report(EngineReady(worker="w", incarnation=1, engine="e")), succeeded("c", 3)]
    await log.report("w", 1, 1, reports[:2])
    await log.report("w", 1, 1, reports[:2])
    await log.report("w", 1, 2, reports[1:])  # the second was seen, the third is new
    assert (await types(log))[2:] == ["AttemptSucceeded", "EngineReady", "AttemptSucceeded"]


async def test_each_incarnation_numbers_its_own_reports(log: EventLog) -> None:
    await log.register(registered(), "nonce", ALIVE_MS)
    await log.report("w", 1, 1, [succeeded("a", 1)])
    await log.register(registered(incarnation=2), "nonce", ALIVE_MS)
    await log.report("w", 2, 1, [succeeded("b", 1, incarnation=2)])
    await log.report("w", 1, 1, [succeeded("a", 1), succeeded("c", 2)])
    assert (await types(log)).count("AttemptSucceeded") == 3


async def test_a_last_report_sent_again_removes_its_entry(log: EventLog) -> None:
    leader = await a_leader_and_a_worker(log)
    (entry,) = await delivered(log, leader, "a")
    await log.start("w", 1, [(entry.id, started("a"))])
    for _ in range(2):
        await log.report("w", 1, 1, [succeeded("a", 1, entry_id=entry.id)])
    assert await log.read_inbox("w", 1, pending_after="0-0") == []
    assert (await types(log)).count("AttemptSucceeded") == 1


@pytest.mark.parametrize("wrong", [succeeded("a", 2), succeeded("a", 1, incarnation=2), succeeded("a", 1, entry_id="no id")])
async def test_a_report_under_another_number_is_a_mistake(log: EventLog, wrong: Report) -> None:
    with pytest.raises(ValueError, match=r"no id|is number 1"):
        await log.report("w", 1, 1, [wrong])
    assert await types(log) == []


async def test_a_report_into_an_empty_log_starts_it(log: EventLog) -> None:
    await log.report("w", 1, 1, [succeeded("a", 1)])
    assert await types(log) == ["LogStarted", "AttemptSucceeded"]


# --- side streams and small values ---


async def test_heartbeats_are_read_in_their_order(log: EventLog) -> None:
    await log.register(registered(), "nonce", ALIVE_MS)
    for running in range(3):
        await log.heartbeat(Heartbeat("w", 1, running=running), ALIVE_MS)
    found = await log.read_heartbeats("0-0")
    assert [beat.running for _, beat in found] == [0, 1, 2]
    assert await log.read_heartbeats(found[1][0]) == found[2:]


async def test_telemetry_is_capped_for_each_task(log: EventLog) -> None:
    for first in range(0, 11_000, 1000):
        await log.append_telemetry([("a", TelemetryPoint(1, step=step)) for step in range(first, first + 1000)])
    await log.append_telemetry([("b", TelemetryPoint(1, line="said"))])
    kept = await log.read_telemetry("a", "0-0", count=20_000)
    assert 10_000 <= len(kept) <= 10_200
    assert kept[-1][1].step == 10_999
    assert [point.line for _, point in await log.read_telemetry("b", "0-0")] == ["said"]


async def test_telemetry_can_be_followed(world: World, log: EventLog) -> None:
    waiting = asyncio.create_task(world.client().read_telemetry("a", "0-0", block_ms=1000))
    await asyncio.sleep(0.01)
    await log.append_telemetry([("a", TelemetryPoint(1, line="said"))])
    assert [point.line for _, point in await waiting] == ["said"]
    assert await log.read_telemetry("nothing", "0-0", block_ms=10) == []


async def test_secrets_are_kept_until_they_are_forgotten(log: EventLog) -> None:
    await log.set_secret("a", {"token": "x"})
    assert await log.secrets("a") == {"token": "x"}
    await log.forget_secret("a")
    await log.forget_secret("a")
    assert await log.secrets("a") == {}


async def test_of_many_tasks_those_are_named_whose_telemetry_has_news(log: EventLog) -> None:
    await log.append_telemetry([(task, TelemetryPoint(1, line="said")) for task in ("a", "b", "b.c")])
    last = (await log.read_telemetry("a", "0-0"))[-1][0]
    assert await log.telemetry_news({"a": last, "b": "0-0", "b.c": "0-0", "nothing": "0-0"}) == {"b", "b.c"}
    assert await log.telemetry_news({}) == set()
