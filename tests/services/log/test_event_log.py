"""What the event log promises to those who read, submit, lead and commit: the same on every implementation."""

from __future__ import annotations

import asyncio

import pytest

from mloc.core import log_ids
from mloc.core.events import CancelRequested, LogStarted
from mloc.services.log.event_log import AlreadyCommitted, Backlog, BacklogFull, EventLog, Fenced, KeyConflict, LeaseHeld, LogError, Submitted
from tests.services.log.log_worlds import World, cancelled, dispatch, events, everything, leading, registered, submitted, types

# --- reading ---


async def test_an_empty_log_has_no_entries_and_no_ends(log: EventLog) -> None:
    assert await log.read("0-0") == []
    assert await log.ends() == ("0-0", "0-0")
    assert await log.entry("5-0") is None


async def test_entries_come_in_the_order_of_their_ids_from_any_position(log: EventLog) -> None:
    await log.submit([submitted(f"t{i}") for i in range(9)])
    found = await everything(log)
    assert [entry.id for entry in found] == sorted((entry.id for entry in found), key=log_ids.key)
    assert await log.read(found[3].id, 4) == found[4:8]
    assert await log.entry(found[5].id) == found[5]
    assert await log.ends() == (found[0].id, found[-1].id)


async def test_a_blocked_read_ends_with_the_first_entry(world: World, log: EventLog) -> None:
    last = (await log.submit([submitted("a")])).last_id
    waiting = asyncio.create_task(world.client().read(last, block_ms=1000))
    await asyncio.sleep(0)
    await log.submit([submitted("b")])
    assert [entry.type for entry in await waiting] == ["TaskSubmitted"]


async def test_a_blocked_read_ends_empty_after_its_time(log: EventLog) -> None:
    last = (await log.submit([submitted("a")])).last_id
    assert await log.read(last, block_ms=20) == []


async def test_a_cancelled_read_disturbs_nobody(log: EventLog) -> None:
    last = (await log.submit([submitted("a")])).last_id
    waiting = asyncio.create_task(log.read(last, block_ms=1000))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting])
    await log.submit([submitted("b")])
    assert len(await log.read(last, block_ms=1000)) == 1


@pytest.mark.parametrize("first", ["submit", "register", "lease"])
async def test_whoever_writes_first_starts_the_log(log: EventLog, first: str) -> None:
    if first == "submit":
        await log.submit([submitted("a")])
    elif first == "register":
        await log.register(registered(), "nonce", 1000)
    await log.lease("scheduler", "one")
    assert (await types(log)).index("LogStarted") == 0
    (start,) = await events(log, LogStarted)
    assert start.log_id
    assert start.run_id == await log.run_id()
    assert "ServerRestarted" not in await types(log)


async def test_the_mark_of_the_results_folder_comes_with_its_path(log: EventLog) -> None:
    assert (await log.results_mark(), await log.results_folder()) == ("", "")
    await log.set_results_mark("nonce", "/results")
    assert (await log.results_mark(), await log.results_folder()) == ("nonce", "/results")


# --- submitting ---


async def test_a_submission_is_appended_whole_and_in_order(log: EventLog) -> None:
    answer = await log.submit([submitted("p"), submitted("p.a"), submitted("p.b")])
    assert answer.tasks == ("p", "p.a", "p.b")
    assert answer.last_id == (await log.ends())[1]
    assert not answer.repeated


async def test_a_repeat_under_the_same_key_gives_the_first_ids_and_appends_nothing(log: EventLog) -> None:
    first = await log.submit([submitted("a")], key="k", body_sha256="body")
    again = await log.submit([submitted("b")], key="k", body_sha256="body")
    assert (again.tasks, again.last_id, again.repeated) == (("a",), first.last_id, True)
    assert (await types(log)).count("TaskSubmitted") == 1


async def test_the_same_key_with_another_body_is_refused(log: EventLog) -> None:
    await log.submit([submitted("a")], key="k", body_sha256="body")
    with pytest.raises(KeyConflict, match="'k'"):
        await log.submit([submitted("b")], key="k", body_sha256="other")
    assert (await types(log)).count("TaskSubmitted") == 1


async def test_a_full_backlog_refuses_the_whole_submission(log: EventLog) -> None:
    await log.submit([submitted("a"), submitted("b")], backlog_limit=3)
    with pytest.raises(BacklogFull, match="2 tasks"):
        await log.submit([submitted("c"), submitted("d")], backlog_limit=3)
    await log.submit([submitted("c")], backlog_limit=3)
    assert (await types(log)).count("TaskSubmitted") == 3


async def test_the_scheduler_says_how_many_tasks_have_not_ended(log: EventLog) -> None:
    await log.submit([submitted("a"), submitted("b")], backlog_limit=2)
    leader = await leading(log)
    await leader.commit(backlog=Backlog(open_tasks=1, submitted=2))
    await log.submit([submitted("c")], backlog_limit=2)
    with pytest.raises(BacklogFull):
        await log.submit([submitted("d")], backlog_limit=2)
    await log.submit([submitted("d")])  # no limit


async def test_what_came_after_the_schedulers_position_counts_as_well(log: EventLog) -> None:
    # given a scheduler that has folded two tasks, of which one ended, while a third came in
    await log.submit([submitted("a"), submitted("b")], backlog_limit=3)
    leader = await leading(log)
    await log.submit([submitted("c")], backlog_limit=3)
    # when it commits, time and again, then no fourth is taken that would be one too many
    for _ in range(3):
        await leader.commit(cancelled("x"), position=leader.lease.last_id, backlog=Backlog(open_tasks=1, submitted=2))
    await log.submit_each([[submitted("d")]], backlog_limit=3)
    with pytest.raises(BacklogFull, match="3 tasks"):
        await log.submit([submitted("e")], backlog_limit=3)
    # and once everything is folded, its own count is all that counts
    _, last = await log.ends()
    await leader.commit(position=last, backlog=Backlog(open_tasks=2, submitted=3))
    await log.submit([submitted("e")], backlog_limit=3)
    with pytest.raises(BacklogFull):
        await log.submit([submitted("f")], backlog_limit=3)


async def test_a_full_backlog_takes_requests(log: EventLog) -> None:
    await log.submit([submitted("a")])
    await log.submit([CancelRequested(task="a")], backlog_limit=1)
    assert (await types(log))[-1] == "CancelRequested"


async def test_a_repeat_is_answered_also_when_the_backlog_is_full(log: EventLog) -> None:
    await log.submit([submitted("a")], key="k", body_sha256="body", backlog_limit=1)
    assert (await log.submit([submitted("a")], key="k", body_sha256="body", backlog_limit=1)).repeated


async def test_of_many_submissions_each_is_tried(log: EventLog) -> None:
    await log.submit([submitted("a", "k", "body")], key="k", body_sha256="body")
    with pytest.raises(KeyConflict):
        await log.submit_each([[submitted("b")], [submitted("c", "k", "other")], [submitted("d"), submitted("e")]])
    assert (await types(log)).count("TaskSubmitted") == 4


async def test_refusals_among_many_are_told_to_whom_they_belong(log: EventLog) -> None:
    await log.submit([submitted("a", "k", "body")], key="k", body_sha256="body")
    fine, conflict, repeat, full = await log.try_each(
        [[submitted("b")], [submitted("c", "k", "other")], [submitted("d", "k", "body")], [submitted("e")]], backlog_limit=2
    )
    assert isinstance(fine, Submitted)
    assert isinstance(conflict, KeyConflict)
    assert isinstance(repeat, Submitted)
    assert (repeat.tasks, repeat.repeated) == (("a",), True)
    assert isinstance(full, BacklogFull)


async def test_many_submissions_are_answered_one_by_one(log: EventLog) -> None:
    answers = await log.submit_each([[submitted(f"t{i}")] for i in range(600)])
    assert [answer.tasks for answer in answers] == [(f"t{i}",) for i in range(600)]
    found = await everything(log)
    assert [entry.id for entry in found][1:] == [answer.last_id for answer in answers]


@pytest.mark.parametrize("count", [0, 257])
async def test_a_submission_has_a_bounded_number_of_events(log: EventLog, count: int) -> None:
    with pytest.raises(ValueError, match="1 to 256"):
        await log.submit([submitted(f"t{i}") for i in range(count)])


# --- leading ---


async def test_each_lease_is_a_new_epoch_and_its_barrier_is_its_own_event(log: EventLog) -> None:
    first = await log.lease("scheduler", "one")
    assert first.last_id == (await log.ends())[1]
    again = await log.lease("scheduler", "one")
    assert (first.epoch, again.epoch) == (1, 2)
    assert (await types(log)) == ["LogStarted", "LeaderElected", "LeaderElected"]
    assert abs(again.now_ms - await log.now_ms()) < 5000


async def test_a_living_leader_keeps_the_lease(log: EventLog) -> None:
    await log.lease("scheduler", "one")
    with pytest.raises(LeaseHeld, match="one leads"):
        await log.lease("scheduler", "two")
    await log.lease("aggregator", "two")  # each service has its own


async def test_a_lease_that_expired_or_was_given_back_is_free(world: World, log: EventLog) -> None:
    await log.lease("scheduler", "one")
    world.expire_lease("scheduler")
    second = await log.lease("scheduler", "two")
    await log.release("scheduler", second.epoch)
    assert (await log.lease("scheduler", "three")).epoch == 3


async def test_only_the_present_epoch_gives_the_lease_back(log: EventLog) -> None:
    first = await log.lease("scheduler", "one")
    await log.lease("scheduler", "one")
    await log.release("scheduler", first.epoch)
    with pytest.raises(LeaseHeld):
        await log.lease("scheduler", "two")


async def test_a_leader_whose_lease_expired_goes_on_while_nobody_took_it(world: World, log: EventLog) -> None:
    leader = await leading(log)
    world.expire_lease("scheduler")
    await leader.commit(cancelled("a"))
    with pytest.raises(LeaseHeld):  # the commit has renewed it
        await log.lease("scheduler", "two")
    world.expire_lease("scheduler")
    assert await log.renew("scheduler", leader.lease.epoch) >= leader.lease.now_ms
    with pytest.raises(LeaseHeld):
        await log.lease("scheduler", "two")


async def test_a_leader_that_was_replaced_is_fenced(world: World, log: EventLog) -> None:
    old = await leading(log)
    world.expire_lease("scheduler")
    new = await leading(world.client(), holder="two")
    before = await types(log)
    with pytest.raises(Fenced):
        await old.commit(cancelled("a"))
    with pytest.raises(Fenced):
        await log.renew("scheduler", old.lease.epoch)
    assert await types(log) == before
    await new.commit(cancelled("a"))


# --- committing ---


async def test_a_commit_appends_all_answers_and_moves_the_cursor(world: World, log: EventLog) -> None:
    leader = await leading(log)
    last = await leader.commit(cancelled("a"), cancelled("b"), position=leader.lease.last_id)
    assert (await types(log))[-2:] == ["TaskCancelled", "TaskCancelled"]
    assert last == (await log.ends())[1]
    assert world.cursor("scheduler") == leader.lease.last_id
    assert world.cursor("archiver") == "0-0"


async def test_a_commit_without_answers_writes_nothing_and_counts(log: EventLog) -> None:
    leader = await leading(log)
    assert await leader.commit(position=leader.lease.last_id) == ""
    assert await leader.commit(cancelled("a")) != ""


async def test_a_commit_sent_again_is_recognised(log: EventLog) -> None:
    leader = await leading(log)
    last = await leader.commit(cancelled("a"))
    leader.commit_no -= 1  # the reply was lost
    with pytest.raises(AlreadyCommitted) as told:
        await leader.commit(cancelled("a"))
    assert (told.value.commit_no, told.value.last_id) == (leader.lease.commit_no + 1, last)
    assert (await types(log)).count("TaskCancelled") == 1
    leader.commit_no = told.value.commit_no
    await leader.commit(cancelled("b"))


async def test_commit_numbers_go_on_under_the_next_leader(log: EventLog) -> None:
    leader = await leading(log)
    await leader.commit(cancelled("a"))
    await leader.commit(cancelled("b"))
    assert (await log.lease("scheduler", "one")).commit_no == 2


async def test_a_commit_takes_256_answers_at_most(log: EventLog) -> None:
    leader = await leading(log)
    await leader.commit(*[cancelled(f"t{i}") for i in range(256)])
    with pytest.raises(ValueError, match="256"):
        await leader.commit(*[cancelled(f"t{i}") for i in range(257)])


async def test_a_wrong_position_is_refused_before_anything_is_written(log: EventLog) -> None:
    leader = await leading(log)
    with pytest.raises(ValueError, match="no id"):
        await leader.commit(dispatch("a"), position="5")
    assert "TaskDispatched" not in await types(log)


async def test_a_dispatch_to_a_worker_that_never_registered_is_only_in_the_log(log: EventLog) -> None:
    leader = await leading(log)
    assert await leader.commit(dispatch("a", worker="nobody")) != ""
    assert (await types(log))[-1] == "TaskDispatched"
    with pytest.raises(LogError):
        await log.read_inbox("nobody", 1)


