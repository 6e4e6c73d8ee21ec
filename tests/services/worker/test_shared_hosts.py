"""Tasks whose engine takes several at a time: which host they get, and that none is harmed by the end of another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from worker_world import FakeHost, World, dispatch, stop, succeeded

from mloc.core.answers import Answer
from mloc.core.events import Device, Hardware
from mloc.core.host_frames import EngineLoaded, RunTask, Stopped
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.worker.attempt import Attempt

ENGINE = "model@1/vllm"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A worker with room for three; its hosts say only what the test makes them say."""
    server = MemoryServer(lambda: int(time.time() * 1000))
    device = Device(0, "gpu", 80 << 30)
    world = World(
        lambda: MemoryLog(server), tmp_path, obedient=False, slots=3, hardware=Hardware("here", 4.0, 2**30, (device,)),
        task_types=("inference", "sft"),
    )  # fmt: skip
    await world.start()
    await world.registered()
    yield world
    await world.close()


def ask(task: str, engine: str = ENGINE, **given: Any) -> Answer:
    return dispatch(task, light=False, task_type="inference", engine=engine, **given)


def run_of(host: FakeHost, task: str) -> RunTask:
    return next(frame for frame in host.frames if isinstance(frame, RunTask) and frame.task == task)


def attempts_of(world: World) -> list[Attempt]:
    """Those that hosts have."""
    return [attempt for host in world.agent.pool.all for attempt in host.attempts.values()]


def hold_files_of(world: World, task: str) -> tuple[asyncio.Event, asyncio.Event]:
    """(set once its files are being fetched, to be set by the test: they are there)"""
    resolver = world.agent.runs._resolver
    fetching, fetched, real = asyncio.Event(), asyncio.Event(), resolver.resolve

    async def slow(attempt: Attempt) -> RunTask:
        if attempt.key[0] == task:
            fetching.set()
            await fetched.wait()
        return await real(attempt)

    resolver.resolve = slow  # type: ignore[method-assign]
    return fetching, fetched


async def hosts_with(world: World, *tasks: set[str]) -> list[FakeHost]:
    """Wait until the hosts have exactly these tasks; gives the hosts in that order."""
    await world.until_true(lambda: sorted(sorted(host.tasks) for host in world.launcher.heavy) == sorted(map(sorted, tasks)))
    return [next(host for host in world.launcher.heavy if set(host.tasks) == wanted) for wanted in tasks]


async def test_tasks_with_one_shared_engine_go_to_one_host_and_others_to_their_own(world: World) -> None:
    await world.send(ask("a"), ask("b"), ask("c", "other@2/vllm"))
    shared, _ = await hosts_with(world, {"a", "b"}, {"c"})
    shared.say(succeeded(run_of(shared, "a")))
    await world.until_types("AttemptSucceeded")
    await world.send(ask("d"))
    await hosts_with(world, {"a", "b", "d"}, {"c"})


async def test_an_engine_that_is_not_shared_has_one_task_at_a_time(world: World) -> None:
    await world.send(ask("a", "model@1"), ask("b", "model@1"))
    await hosts_with(world, {"a"}, {"b"})


async def test_slots_bound_how_many_share_an_engine_on_the_cpu(world: World) -> None:
    await world.send(*(ask(task) for task in "abcd"))
    (host,) = await hosts_with(world, {"a", "b", "c"})
    host.say(succeeded(run_of(host, "b")))
    await hosts_with(world, {"a", "b", "c", "d"})


async def test_on_a_device_those_whose_stated_memory_fits_share_an_engine(world: World) -> None:
    await world.send(*(ask(task, devices=(0,), device_memory=30 << 30) for task in "abc"))
    (host,) = await hosts_with(world, {"a", "b"})
    host.say(succeeded(run_of(host, "a")))
    await hosts_with(world, {"a", "b", "c"})


def join(task: str, *, engine: str = ENGINE, **given: Any) -> Answer:
    return ask(task, engine, devices=(0,), joins=True, **given)


async def test_on_a_device_those_that_join_share_the_engine_that_has_it(world: World) -> None:
    await world.send(ask("a", devices=(0,)), join("b"), join("other", engine="other@2/vllm"))
    (host,) = await hosts_with(world, {"a", "b"})
    host.say(succeeded(run_of(host, "a")), succeeded(run_of(host, "b")))
    await hosts_with(world, {"a", "b", "other"})  # the host loads another engine


async def test_one_that_joins_where_all_have_ended_meanwhile_has_the_warm_host_to_itself(world: World) -> None:
    await world.send(ask("a", devices=(0,)))
    (host,) = await hosts_with(world, {"a"})
    host.say(succeeded(run_of(host, "a")))
    await world.until_types("AttemptSucceeded")
    await world.send(join("b"))
    await hosts_with(world, {"a", "b"})


async def test_one_that_joins_waits_while_another_is_asked_to_stop(world: World) -> None:
    await world.send(ask("a", devices=(0,)), join("b"))
    (host,) = await hosts_with(world, {"a", "b"})
    await world.send(stop("a", grace_sec=30))
    await world.until_true(lambda: host.stops == ["a"])
    await world.send(join("c"), ask("d"))
    await hosts_with(world, {"a", "b"}, {"d"})
    host.say(Stopped("a", 1))
    await hosts_with(world, {"a", "b", "c"}, {"d"})


@pytest.mark.parametrize("grace_sec", [0.0, 30.0])
async def test_one_whose_place_was_lost_while_its_files_came_is_given_back_and_starts_no_engine_beside(world: World, grace_sec: float) -> None:
    fetching, fetched = hold_files_of(world, "c")
    await world.send(ask("a", devices=(0,)), join("b"), join("c"))
    (host,) = await hosts_with(world, {"a", "b"})
    await fetching.wait()
    await world.send(stop("a", grace_sec=grace_sec))
    await world.until_true(lambda: host.stops == ["a"] and any(one.overdue for one in attempts_of(world)) == (grace_sec == 0))
    fetched.set()
    await world.until_types("AttemptStopped")
    assert [(event.task, "cannot join" in event.reason) for event in await world.events("AttemptStopped")] == [("c", True)]
    assert [set(one.tasks) for one in world.launcher.heavy] == [{"a", "b"}]
    host.say(succeeded(run_of(host, "b")), *([Stopped("a", 1)] if grace_sec else []))
    await world.until_types("AttemptStopped", "AttemptStopped")
    assert host.alive == (grace_sec > 0)


async def test_one_that_joins_starts_a_host_of_its_own_only_when_the_killed_one_has_gone(world: World) -> None:
    fetching, fetched = hold_files_of(world, "b")
    await world.send(ask("a", devices=(0,)), join("b"))
    (host,) = await hosts_with(world, {"a"})
    await fetching.wait()
    host.die(signal=11)
    await world.until_types("AttemptFailed")
    fetched.set()
    _, other = await hosts_with(world, {"a"}, {"b"})
    assert other.plan.devices == (0,)


async def test_an_engine_in_two_hosts_is_there_until_both_have_left(world: World) -> None:
    await world.send(ask("a", devices=(0,)), ask("b"))
    one, other = await hosts_with(world, {"a"}, {"b"})
    one.say(EngineLoaded(ENGINE, 2.0, takes_several=True))
    other.say(EngineLoaded(ENGINE, 3.0, takes_several=True))
    await world.until_types("EngineReady", "EngineReady")
    other.die(signal=11)
    await world.until_types("EngineReady", "EngineReady", "EngineReady", "AttemptFailed")
    assert [(ready.devices, ready.takes_several) for ready in await world.events("EngineReady")] == [((0,), True), ((), True), ((0,), True)]
    one.die(signal=11)
    await world.until_types("EngineSlept")


async def test_a_stop_of_one_leaves_the_others_and_the_host(world: World) -> None:
    await world.send(ask("a"), ask("b"))
    (host,) = await hosts_with(world, {"a", "b"})
    await world.send(stop("a", grace_sec=5))
    await world.until_true(lambda: host.stops == ["a"])
    host.say(Stopped("a", 1))
    await world.until_types("AttemptStopped")
    assert host.alive
    host.say(succeeded(run_of(host, "b")))
    await world.until_types("AttemptSucceeded")


async def test_one_that_does_not_stop_waits_for_the_others_and_nobody_joins_it(world: World) -> None:
    await world.send(ask("a"), ask("b"))
    (host,) = await hosts_with(world, {"a", "b"})
    await world.send(stop("a", grace_sec=0.0))
    (stubborn,) = [one for one in world.agent.pool.all if one.attempts]
    await world.until_true(lambda: any(attempt.overdue for attempt in stubborn.attempts.values()))
    assert host.alive
    await world.send(ask("c"))
    await hosts_with(world, {"a", "b"}, {"c"})
    host.say(succeeded(run_of(host, "b")))
    await world.until_types("AttemptSucceeded", "AttemptStopped")
    assert not host.alive
    assert ("a", "AttemptStopped") in await world.outcomes()


async def test_all_are_killed_once_all_of_them_have_not_stopped_in_time(world: World) -> None:
    await world.send(ask("a"), ask("b"))
    (host,) = await hosts_with(world, {"a", "b"})
    await world.send(stop("a", grace_sec=0.0), stop("b", grace_sec=0.01))
    await world.until_types("AttemptStopped", "AttemptStopped")
    assert not host.alive


async def test_a_crash_fails_all_of_them_and_each_can_be_tried_again(world: World) -> None:
    await world.send(ask("a"), ask("b"))
    (host,) = await hosts_with(world, {"a", "b"})
    host.watch.line("a line of the engine")
    host.die(signal=11)
    await world.until_types("AttemptFailed", "AttemptFailed")
    failures = await world.events("AttemptFailed")
    assert sorted(event.task for event in failures) == ["a", "b"]
    assert all(event.error.type == "HostDied" and event.error.retryable for event in failures)


async def test_a_host_that_does_not_start_fails_each_that_wanted_it(world: World) -> None:
    world.launcher.refusing = True
    await world.send(ask("a"), ask("b"))
    await world.until_types("AttemptFailed", "AttemptFailed")
    world.launcher.refusing = False
    await world.send(ask("c"), ask("d"))
    await hosts_with(world, {"c", "d"})


async def test_a_line_of_an_engines_process_is_told_to_nobody_while_several_share_it(world: World) -> None:
    await world.send(ask("a"), ask("b"))
    (host,) = await hosts_with(world, {"a", "b"})
    told: list[str] = []
    world.agent.runs._telemetry.line = lambda key, text: told.append(f"{key[0]}: {text}")  # type: ignore[method-assign]
    host.watch.line("whose is this?")
    host.say(succeeded(run_of(host, "a")))
    await world.until_types("AttemptSucceeded")
    host.watch.line("this is of b")
    assert told == ["b: this is of b"]
