"""The worker's agent against a log in memory: what it starts, what it reports, what it answers to stops."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from worker_world import World, dispatch, stop, succeeded

from mloc.core.answers import Answer
from mloc.core.events import AttemptFailed, AttemptRecalled, Error
from mloc.core.host_frames import NOT_LIGHT, CheckpointDone, EngineLoaded, Failed, HostReady, RowsDone, RunTask, Stopped
from mloc.services.log.event_log import IncarnationLost, LogRefused
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer


def in_memory() -> Any:
    server = MemoryServer(lambda: int(time.time() * 1000))
    return lambda: MemoryLog(server)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A worker whose hosts answer every task at once."""
    world = World(in_memory(), tmp_path)
    await world.start()
    await world.registered()
    yield world
    await world.close()


@pytest.fixture
async def quiet(tmp_path: Path) -> AsyncIterator[World]:
    """A worker whose hosts say only what the test makes them say."""
    world = World(in_memory(), tmp_path, obedient=False)
    await world.start()
    await world.registered()
    yield world
    await world.close()


async def test_light_tasks_are_started_run_and_reported_in_batches(world: World) -> None:
    await world.send(*(dispatch(f"t{number}") for number in range(200)))
    await world.until_types(*["AttemptSucceeded"] * 200)
    assert sum(name == "start" for name, _ in world.log.calls) <= 3
    assert sum(name == "report" for name, _ in world.log.calls) <= 3
    assert await world.log.log.read_inbox("w1", 1, pending_after="0-0") == []


async def test_a_dispatch_of_another_incarnation_is_ignored(world: World) -> None:
    foreign = dispatch("t1", incarnation=7)
    await world.send(Answer(foreign.event, ("w1", 1), foreign.extra), dispatch("t2"))
    await world.until_types("AttemptSucceeded")
    assert await world.outcomes() == [("t2", "AttemptStarted"), ("t2", "AttemptSucceeded")]


async def test_a_recalled_dispatch_is_never_run(world: World) -> None:
    go = world.log.hold("start")
    await world.send(dispatch("t1"), dispatch("t2"))
    await world.until_true(lambda: any(name == "start" for name, _ in world.log.calls))
    recall = AttemptRecalled(task="t1", attempt=1, worker="w1", incarnation=1)
    await world.send(Answer(recall, ("w1", 1), recall=await world.entry_of("t1")))
    go.set()
    await world.until_types("AttemptSucceeded")
    assert world.launcher.light.tasks == ["t2"]


async def test_a_start_whose_reply_was_lost_is_repeated_and_the_task_runs_once(world: World) -> None:
    world.log.fail("start", when="after", times=2)
    await world.send(dispatch("t1"))
    await world.until_types("AttemptSucceeded")
    assert await world.outcomes() == [("t1", "AttemptStarted"), ("t1", "AttemptSucceeded")]
    assert world.launcher.light.tasks == ["t1"]


async def test_a_report_whose_reply_was_lost_is_repeated_and_is_in_the_log_once(world: World) -> None:
    world.log.fail("report", when="after", times=2)
    await world.send(dispatch("t1"))
    await world.until_types("AttemptSucceeded")
    await world.until_true(world.agent.outbox.empty.is_set)
    assert await world.outcomes() == [("t1", "AttemptStarted"), ("t1", "AttemptSucceeded")]


async def test_an_entry_that_a_dead_connection_took_is_read_again(world: World) -> None:
    world.log.fail("read_inbox", when="after")
    await asyncio.sleep(0)
    await world.send(dispatch("t1"))
    await world.until_types("AttemptSucceeded")


async def test_tasks_that_need_a_slot_run_one_after_the_other_in_the_same_warm_host(quiet: World) -> None:
    await quiet.send(dispatch("a", light=False), dispatch("b", light=False))
    await quiet.until_true(lambda: quiet.launcher.heavy and quiet.launcher.heavy[0].tasks == ["a"])
    host = quiet.launcher.heavy[0]
    assert await quiet.outcomes() == [("a", "AttemptStarted")]
    host.say(HostReady(1), succeeded(host.frames[-1]))
    await quiet.until_true(lambda: host.tasks == ["a", "b"])
    assert len(quiet.launcher.heavy) == 1


async def test_a_task_behind_a_device_starts_when_the_device_is_free(quiet: World) -> None:
    await quiet.send(dispatch("a", light=False, devices=(0,)), dispatch("b", light=False, devices=(0,)), dispatch("c", light=False, devices=(1,)))
    await quiet.until_types("AttemptStarted", "AttemptStarted")
    assert [event.task for event in await quiet.events("AttemptStarted")] == ["a", "c"]
    await quiet.until_true(lambda: len(quiet.launcher.heavy) == 2)
    first = next(host for host in quiet.launcher.heavy if host.plan.devices == (0,))
    await quiet.until_true(lambda: first.tasks == ["a"])
    first.say(succeeded(first.frames[-1]))
    await quiet.until_true(lambda: first.tasks == ["a", "b"])


async def test_a_host_of_another_family_leaves_when_its_device_is_needed(quiet: World) -> None:
    await quiet.send(dispatch("a", light=False, devices=(0,)))
    await quiet.until_true(lambda: quiet.launcher.heavy and quiet.launcher.heavy[0].tasks)
    first = quiet.launcher.heavy[0]
    first.say(EngineLoaded("model-a", 2.5), succeeded(first.frames[-1]))
    await quiet.until_types("EngineReady", "AttemptSucceeded")
    await quiet.send(dispatch("b", light=False, devices=(0,), task_type="echo"))
    await quiet.until_true(lambda: len(quiet.launcher.heavy) == 2 and quiet.launcher.heavy[1].tasks == ["b"])
    assert not first.alive
    await quiet.until_types("EngineSlept")


async def test_engines_that_fall_asleep_and_wake_are_told_with_their_times(quiet: World) -> None:
    await quiet.send(dispatch("a", light=False, devices=(0,)))
    await quiet.until_true(lambda: quiet.launcher.heavy and quiet.launcher.heavy[0].tasks)
    host = quiet.launcher.heavy[0]
    host.say(EngineLoaded("m", 40.0), EngineLoaded("m", 1.5, loaded=False, asleep=True), EngineLoaded("m", 2.5, woke=True))
    host.say(EngineLoaded("alias of m", 0.0), succeeded(host.frames[-1]))
    await quiet.until_types("EngineReady", "EngineSlept", "EngineWoke", "EngineReady", "AttemptSucceeded")
    (slept,), (woke,) = await quiet.events("EngineSlept"), await quiet.events("EngineWoke")
    assert (slept.asleep, slept.seconds, woke.seconds) == (True, 1.5, 2.5)
    assert [event.load_sec for event in await quiet.events("EngineReady")] == [40.0, 0.0]


async def test_rows_checkpoints_and_failures_are_reported_in_order_and_kept_until_acknowledged(quiet: World) -> None:
    await quiet.send(dispatch("a", light=False))
    await quiet.until_true(lambda: quiet.launcher.heavy and quiet.launcher.heavy[0].tasks)
    sending = quiet.log.hold("report")
    quiet.launcher.heavy[0].say(
        RowsDone("a", 1, "part-0", 8, "d1"), CheckpointDone("a", 1, 10, "/c"), Failed("a", 1, Error("Bad", "no such column", False), 5.0)
    )
    await quiet.until_true(lambda: quiet.store.content.count(b"ReportKept") == 3)
    sending.set()
    await quiet.until_types("RowsCompleted", "CheckpointSaved", "AttemptFailed")
    reports = await quiet.events("RowsCompleted", "CheckpointSaved", "AttemptFailed")
    assert [event.seq for event in reports] == [1, 2, 3]
    assert reports[2].error == Error("Bad", "no such column", False)
    await quiet.until_true(lambda: b"ReportAcknowledged" in quiet.store.content)


async def test_the_ledger_shows_a_host_before_it_may_go(quiet: World) -> None:
    quiet.store.failing = True
    await quiet.send(dispatch("a", light=False))
    await quiet.until_types("AttemptFailed")
    failed = (await quiet.events("AttemptFailed"))[0]
    assert "ledger cannot be written" in failed.error.message
    assert failed.error.retryable
    assert quiet.launcher.heavy[0].frames == []


async def test_a_dying_host_fails_its_attempt_with_the_signal_explained(quiet: World) -> None:
    await quiet.send(dispatch("a", light=False))
    await quiet.until_true(lambda: quiet.launcher.heavy and quiet.launcher.heavy[0].tasks)
    host = quiet.launcher.heavy[0]
    host.watch.line("CUDA error: an illegal memory access was encountered")
    host.die(signal=11)
    await quiet.until_types("AttemptFailed")
    error = (await quiet.events("AttemptFailed"))[0].error
    assert error.retryable
    assert "SIGSEGV" in error.message
    assert "illegal memory access" in error.message


async def test_of_a_batch_in_a_light_host_that_dies_only_the_task_that_kills_hosts_fails(quiet: World) -> None:
    await quiet.send(*(dispatch(f"t{number}") for number in range(5)))
    hosts = set()
    while len(await quiet.events("AttemptSucceeded", "AttemptFailed")) < 5:
        await quiet.until_true(lambda: quiet.launcher.hosts and quiet.launcher.light.alive and quiet.launcher.light.tasks, seconds=5)
        host = quiet.launcher.light
        if host not in hosts:
            host.say(HostReady(1))
            hosts.add(host)
        runs = [frame for frame in host.frames if isinstance(frame, RunTask)]
        host.frames.clear()
        if any(run.task == "t3" for run in runs):
            host.die(signal=11)
        host.say(*(succeeded(run) for run in runs if run.task != "t3" and host.alive))
        await asyncio.sleep(0.005)
    assert [event.task for event in await quiet.events("AttemptFailed")] == ["t3"]
    assert len(hosts) == 3


def too_large(task: str) -> Failed:
    return Failed(task, 1, Error(NOT_LIGHT, "a light task gives at most 65536 bytes, this one 70000", retryable=True), 1.0)


async def test_what_is_too_large_for_the_light_host_runs_in_the_same_attempt_in_a_host_of_its_own_when_a_slot_is_free(quiet: World) -> None:
    # given a task that holds the only slot, and a light one whose result does not fit into an event
    await quiet.send(dispatch("other", light=False), dispatch("large"), dispatch("small"))
    await quiet.until_true(lambda: quiet.launcher.heavy and quiet.launcher.heavy[0].tasks and len(quiet.launcher.light.tasks) == 2)
    (other,) = (frame for frame in quiet.launcher.heavy[0].frames if isinstance(frame, RunTask))
    small = next(frame for frame in quiet.launcher.light.frames if isinstance(frame, RunTask) and frame.task == "small")
    # when the light host says so, it waits for the slot, and nothing else does
    quiet.launcher.light.say(too_large("large"), succeeded(small))
    await quiet.until_types("AttemptSucceeded")
    assert not any("large" in host.tasks for host in quiet.launcher.heavy)
    # and when that is free, it runs and ends as any other
    quiet.launcher.heavy[0].say(succeeded(other))
    await quiet.until_true(lambda: any("large" in host.tasks for host in quiet.launcher.heavy))
    host = next(host for host in quiet.launcher.heavy if "large" in host.tasks)
    host.say(succeeded(next(frame for frame in host.frames if isinstance(frame, RunTask) and frame.task == "large")))
    await quiet.until_types(*["AttemptSucceeded"] * 3)
    assert len(await quiet.events("AttemptStarted")) == 3
    assert await quiet.events("AttemptFailed") == []
    assert quiet.agent.runs.none_left.is_set()


async def test_what_is_too_large_for_the_light_host_can_be_stopped_while_it_waits_for_a_slot(quiet: World) -> None:
    await quiet.send(dispatch("other", light=False), dispatch("large"))
    await quiet.until_true(lambda: quiet.launcher.heavy and quiet.launcher.heavy[0].tasks and quiet.launcher.light.tasks)
    quiet.launcher.light.say(too_large("large"))
    await quiet.send(stop("large"))
    await quiet.until_types("AttemptStopped")
    (other,) = (frame for frame in quiet.launcher.heavy[0].frames if isinstance(frame, RunTask))
    quiet.launcher.heavy[0].say(succeeded(other))
    await quiet.until_types("AttemptSucceeded")
    assert [event.task for event in await quiet.events("AttemptStopped")] == ["large"]
    assert not any("large" in host.tasks for host in quiet.launcher.heavy)


# --- a server that does not let it in ---


async def test_a_worker_that_is_not_let_in_at_its_start_ends_with_the_reason(tmp_path: Path) -> None:
    world = World(in_memory(), tmp_path)
    world.log.fail("run_id", error=LogRefused("the server refuses user or password"))
    await world.start()
    with pytest.raises(LogRefused, match="refuses user or password"):
        await asyncio.wait_for(world.life, 10)
    assert await world.events("WorkerRegistered") == []


async def test_a_worker_that_is_not_let_in_later_keeps_its_work_and_comes_back(quiet: World) -> None:
    await quiet.send(dispatch("t1", light=False))
    await quiet.until_true(lambda: quiet.launcher.heavy and quiet.launcher.heavy[0].tasks)
    quiet.log.fail("run_id", error=LogRefused("the server refuses user or password"), times=2)
    quiet.log.fail("heartbeat", error=IncarnationLost())
    await quiet.registered(2)
    (frame,) = (frame for frame in quiet.launcher.heavy[0].frames if isinstance(frame, RunTask))
    quiet.launcher.heavy[0].say(succeeded(frame))
    await quiet.until_types("AttemptSucceeded")


# --- stops ---


async def test_a_stop_of_an_attempt_that_the_worker_does_not_know_is_answered_and_its_dispatch_never_starts(world: World) -> None:
    await world.send(stop("t1"))
    await world.until_types("AttemptStopped")
    await world.send(dispatch("t1"), dispatch("t2"))
    await world.until_types("AttemptSucceeded")
    assert await world.outcomes() == [("t1", "AttemptStopped"), ("t2", "AttemptStarted"), ("t2", "AttemptSucceeded")]


async def test_a_stop_while_the_dispatch_waits_or_is_being_started_means_that_it_does_not_run(quiet: World) -> None:
    await quiet.send(dispatch("busy", light=False))
    await quiet.until_types("AttemptStarted")
    await quiet.send(dispatch("waits", light=False), stop("waits"))
    await quiet.until_types("AttemptStopped")
    go = quiet.log.hold("start")
    await quiet.send(dispatch("starting"))
    await quiet.until_true(lambda: sum(name == "start" for name, _ in quiet.log.calls) == 2)
    await quiet.send(stop("starting"))
    await quiet.until_true(lambda: sum(name == "acknowledge" for name, _ in quiet.log.calls) == 2)
    go.set()
    await quiet.until_types("AttemptStopped", "AttemptStopped")
    assert quiet.launcher.light.tasks == []
    assert [event.task for event in await quiet.events("AttemptStopped")] == ["waits", "starting"]
    remaining = await quiet.truth.read_inbox("w1", 1, pending_after="0-0")
    assert [entry.id for entry in remaining] == [await quiet.entry_of("busy")]


async def test_a_running_attempt_that_is_asked_to_stop_stops_cleanly(quiet: World) -> None:
    await quiet.send(dispatch("a", light=False))
    await quiet.until_true(lambda: quiet.launcher.heavy and quiet.launcher.heavy[0].tasks)
    host = quiet.launcher.heavy[0]
    await quiet.send(stop("a", grace_sec=5))
    await quiet.send(stop("a", grace_sec=5))
    await quiet.until_true(lambda: host.stops == ["a"])
    host.say(Stopped("a", 1))
    await quiet.until_types("AttemptStopped")
    assert host.alive
    assert await quiet.outcomes() == [("a", "AttemptStarted"), ("a", "AttemptStopped")]


async def test_an_attempt_that_does_not_stop_within_its_grace_is_killed_and_counts_as_stopped(quiet: World) -> None:
    await quiet.send(dispatch("a", light=False))
    await quiet.until_true(lambda: quiet.launcher.heavy and quiet.launcher.heavy[0].tasks)
    await quiet.send(stop("a", grace_sec=0.01))
    await quiet.until_types("AttemptStopped")
    assert not quiet.launcher.heavy[0].alive
    assert await quiet.outcomes() == [("a", "AttemptStarted"), ("a", "AttemptStopped")]


async def test_a_success_after_the_stop_was_asked_still_counts(quiet: World) -> None:
    await quiet.send(dispatch("a", light=False))
    await quiet.until_true(lambda: quiet.launcher.heavy and quiet.launcher.heavy[0].tasks)
    host = quiet.launcher.heavy[0]
    await quiet.send(stop("a", grace_sec=5))
    await quiet.until_true(lambda: host.stops)
    host.say(succeeded(next(frame for frame in host.frames if frame.__class__.__name__ == "RunTask")))
    await quiet.until_types("AttemptSucceeded")


# --- a host that cannot be started ---


async def test_a_host_that_cannot_be_started_fails_the_attempt_and_frees_its_slot(quiet: World) -> None:
    quiet.launcher.refusing = True
    await quiet.send(dispatch("a", light=False))
    await quiet.until_types("AttemptFailed")
    quiet.launcher.refusing = False
    await quiet.send(dispatch("b", light=False))
    await quiet.until_true(lambda: quiet.launcher.heavy and quiet.launcher.heavy[0].tasks == ["b"])
    assert isinstance((await quiet.events("AttemptFailed"))[0], AttemptFailed)
