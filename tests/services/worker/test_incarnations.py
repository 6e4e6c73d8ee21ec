"""The worker's agent over several incarnations: what it lists, what it reports late, how it leaves."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from worker_world import World, dispatch, stop, succeeded

from mloc.core.answers import Answer
from mloc.core.events import HeldAttempt, WorkerLost
from mloc.core.host_frames import EngineLoaded
from mloc.services.log.event_log import ServerChanged, WorkerRefused
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.worker import agent


class Place(World):
    """A world whose server can be restarted."""

    def __init__(self, folder: Path) -> None:
        self.server = MemoryServer(lambda: int(time.time() * 1000))
        super().__init__(lambda: MemoryLog(self.server), folder, obedient=False)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    await place.start()
    await place.registered()
    yield place
    await place.close()


async def running(place: Place, task: str = "a") -> None:
    """A task that needs a slot runs."""
    await place.send(dispatch(task, light=False))
    await place.until_true(lambda: any(host.tasks for host in place.launcher.heavy))


async def lose(place: Place, incarnation: int = 1) -> None:
    """The scheduler declares the worker lost."""
    await place.send(Answer(WorkerLost(worker="w1", incarnation=incarnation, silent_ms=5000)))


async def test_a_worker_that_was_declared_lost_registers_anew_and_lists_what_runs(place: Place) -> None:
    await running(place)
    await lose(place)
    assert (await place.registered(2)).attempts == (HeldAttempt("a", 1),)
    host = place.launcher.heavy[0]
    host.say(succeeded(host.frames[-1]))
    await place.until_types("AttemptSucceeded")
    assert (await place.events("AttemptSucceeded"))[0].incarnation == 2


async def test_what_was_dispatched_to_a_lost_incarnation_and_not_started_never_runs(place: Place) -> None:
    await running(place)
    await place.send(dispatch("waits", light=False))
    await lose(place)
    await place.registered(2)
    await place.send(dispatch("new", incarnation=2))
    await place.until_true(lambda: place.launcher.light.tasks)
    host = place.launcher.heavy[0]
    host.say(succeeded(host.frames[-1]))
    await place.until_types("AttemptSucceeded")
    assert place.launcher.light.tasks == ["new"]
    assert host.tasks == ["a"]


async def test_a_start_in_flight_is_answered_or_given_up_before_the_worker_registers_anew(place: Place) -> None:
    answering = place.log.hold("start")
    await place.send(dispatch("t1"))
    await place.until_true(lambda: any(name == "start" for name, _ in place.log.calls))
    await lose(place)
    await place.until_true(lambda: place.agent._session is not None and place.agent._session._over)
    assert len(await place.events("WorkerRegistered")) == 1
    answering.set()
    assert (await place.registered(2)).attempts == ()
    assert place.launcher.light.tasks == []


async def test_another_server_run_makes_the_worker_register_under_it(place: Place) -> None:
    await running(place)
    place.server.restart()
    registration = await place.registered(2)
    assert registration.run_id == "run-2"
    assert registration.attempts == (HeldAttempt("a", 1),)


async def test_a_server_that_lost_its_tail_gets_a_higher_incarnation_all_the_same(place: Place) -> None:
    await running(place)
    place.server.restart(lose_tail=100)
    assert (await place.registered(2)).attempts == (HeldAttempt("a", 1),)


async def test_reports_that_were_not_acknowledged_are_listed_and_sent_with_their_own_numbers(place: Place) -> None:
    await running(place)
    place.log.fail("report", times=10_000)
    host = place.launcher.heavy[0]
    host.say(EngineLoaded("model", 1.0), succeeded(host.frames[-1]))
    await place.until_true(lambda: any(name == "report" for name, _ in place.log.calls))
    await lose(place)
    assert (await place.registered(2)).attempts == (HeldAttempt("a", 1),)
    place.log.faults.clear()
    await place.until_types("AttemptSucceeded", "EngineReady", "EngineReady")
    late = (await place.events("AttemptSucceeded"))[0]
    assert (late.incarnation, late.seq) == (1, 2)
    assert [event.incarnation for event in await place.events("EngineReady")] == [1, 2]


async def test_after_a_crash_nothing_runs_but_an_unacknowledged_result_is_listed_and_reported(place: Place) -> None:
    await running(place, "a")
    place.log.fail("report", times=10_000)
    host = place.launcher.heavy[0]
    host.say(succeeded(host.frames[-1]))
    await place.until_true(lambda: b"AttemptSucceeded" in place.store.content)
    await place.send(dispatch("b", light=False))
    await place.until_true(lambda: host.tasks == ["a", "b"])
    await place.crash()
    hosts_before = [host.record.pid for host in place.launcher.hosts]
    await place.start()
    assert (await place.registered(2)).attempts == (HeldAttempt("a", 1),)
    await place.until_types("AttemptSucceeded")
    assert [(event.task, event.incarnation) for event in await place.events("AttemptSucceeded")] == [("a", 1)]
    assert place.launcher.orphans_killed == hosts_before


async def test_a_report_that_had_arrived_before_the_crash_is_not_in_the_log_twice(place: Place) -> None:
    await running(place)
    place.log.fail("report", when="after", times=10_000)
    host = place.launcher.heavy[0]
    host.say(succeeded(host.frames[-1]))
    await place.until_types("AttemptSucceeded")
    await place.crash()
    await place.start()
    await place.registered(2)
    await place.until_true(place.agent.outbox.empty.is_set)
    assert len(await place.events("AttemptSucceeded")) == 1


async def test_a_registration_whose_reply_was_lost_is_repeated(place: Place) -> None:
    place.log.fail("register", when="after")
    await lose(place)
    await place.registered(3)
    await place.send(dispatch("t1", incarnation=3))
    await place.until_true(lambda: place.launcher.light.tasks == ["t1"])


async def test_a_worker_whose_id_is_taken_waits_and_then_says_so(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.plan = type(place.plan)(**{name: getattr(place.plan, name) for name in place.plan.__struct_fields__} | {"heartbeat_ttl_sec": 0.2})
    place.log.fail("register", error=WorkerRefused("another worker with the id w1 is alive"), times=100)
    await place.start()
    with pytest.raises(WorkerRefused, match="w1 is alive"):
        await asyncio.wait_for(place.life, 10)


async def test_a_server_restart_seen_while_registering_leads_to_a_registration_under_the_new_run(place: Place) -> None:
    place.log.fail("register", when="after", error=ServerChanged("another run"))
    await lose(place)
    assert (await place.registered(3)).run_id == "run-1"


async def test_heartbeats_go_on_while_every_other_call_stands_still(place: Place) -> None:
    for name in ("start", "report", "append_telemetry", "acknowledge"):
        place.log.hold(name)
    await place.send(dispatch("t1"), stop("t9"))
    await place.until_true(lambda: any(name == "start" for name, _ in place.log.calls))
    before = sum(name == "heartbeat" for name, _ in place.log.calls)
    await place.until_true(lambda: sum(name == "heartbeat" for name, _ in place.log.calls) > before + 3, seconds=2)


# --- the end ---


async def test_an_idle_worker_leaves_at_once(place: Place) -> None:
    place.stop.set()
    await asyncio.wait_for(place.life, 2)
    assert len(await place.events("WorkerRetired")) == 1
    assert not any(host.alive for host in place.launcher.hosts)


async def test_a_draining_worker_gives_back_what_waits_and_lets_what_runs_end(place: Place) -> None:
    await running(place)
    await place.send(dispatch("waits", light=False))
    await place.until_true(lambda: len(place.agent._session._inbox) == 1)  # type: ignore[union-attr]
    place.stop.set()
    await place.until_types("AttemptStopped")
    assert (await place.registered(2)).task_types == ()
    host = place.launcher.heavy[0]
    host.say(succeeded(host.frames[-1]))
    await asyncio.wait_for(place.life, 5)
    assert await place.outcomes() == [("a", "AttemptStarted"), ("waits", "AttemptStopped"), ("a", "AttemptSucceeded")]
    assert (await place.events("WorkerRetired"))[0].incarnation == 2


async def test_a_draining_worker_stops_what_does_not_end_in_time(place: Place) -> None:
    await running(place)
    place.stop.set()
    await asyncio.wait_for(place.life, 5)
    assert place.launcher.heavy[0].stops == ["a"]
    assert (await place.events("AttemptStopped"))[0].reason == "drain"
    assert len(await place.events("WorkerRetired")) == 1


async def test_a_worker_leaves_in_time_when_the_log_is_gone_and_keeps_its_results(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mloc.services.worker.agent.FAREWELL_SEC", 0.1)
    await running(place)
    place.server.stop()
    host = place.launcher.heavy[0]
    host.say(succeeded(host.frames[-1]))
    await place.until_true(lambda: b"AttemptSucceeded" in place.store.content)
    place.stop.set()
    await asyncio.wait_for(place.life, 5)
    place.server.restart()
    await place.start()
    assert (await place.registered(2)).attempts == (HeldAttempt("a", 1),)
    await place.until_types("AttemptSucceeded")


@pytest.mark.parametrize(("every_sec", "most"), [(3600.0, 1), (0.0, 4)])
async def test_a_worker_that_finds_no_log_says_what_it_waits_for_at_once_and_at_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_sec: float, most: int
) -> None:
    # given a log that cannot be reached four times
    monkeypatch.setattr(agent, "SAY_EVERY_SEC", every_sec)
    place = Place(tmp_path)
    place.log.fail("run_id", times=4)
    # when the worker starts
    with capture_logs() as lines:
        await place.start()
        await place.registered()
    await place.close()
    # then it said so, and registered when the log was there
    said = [line for line in lines if line["event"].startswith("waiting for the event log")]
    assert len(said) == most
    assert said[0]["reason"] == "no connection"
    assert said[0]["log_level"] == "warning"
