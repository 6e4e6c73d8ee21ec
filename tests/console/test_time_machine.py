"""The state after any number of events, whichever way one comes to it."""

from __future__ import annotations

import random

import pytest

from mloc.console.chronicle import Chronicle, compressed
from mloc.console.time_machine import TimeMachine
from mloc.core.cluster import Cluster
from mloc.core.codec import decode
from mloc.core.events import Error
from mloc.core.fold import evolve
from mloc.core.moment import AtId, AtOrdinal, AtTime
from mloc.services.observer import Observed
from tests.console.fake_source import FakeSource
from tests.histories import History


@pytest.fixture(scope="module")
def history() -> History:
    made = History(outcome=lambda task, attempt: Error("Boom", "it broke") if task.endswith("7") else {"ok": True})
    made.worker("w1", slots=20)
    for number in range(300):
        made.submit(f"t{number}", backoff_sec=1.0)
    made.settle()
    return made


@pytest.fixture
async def machine(history: History) -> TimeMachine:
    chronicle, state = Chronicle(), Cluster()
    for entry in history.entries:
        event = decode(entry.type, entry.payload)
        evolve(state, entry.id, event)
        chronicle.record([Observed(entry.id, event, entry.payload)])
        if len(chronicle) in (500, 1500):
            chronicle.add_mark(len(chronicle), compressed(state))
    return TimeMachine(FakeSource(history), chronicle)


async def test_every_way_to_a_point_of_history_gives_the_state_that_was_there(history: History, machine: TimeMachine) -> None:
    # given the true digest at many points
    stops = random.Random(7).choices(range(len(history.entries) + 1), k=40)
    stops += [stop + step for stop in stops[:10] for step in (1, -1, 0) if 0 <= stop + step <= len(history.entries)]
    true, state = {0: Cluster().digest()}, Cluster()
    for number, entry in enumerate(history.entries, 1):
        evolve(state, entry.id, decode(entry.type, entry.payload))
        if number in stops:
            true[number] = state.digest()
    # then they come back in any order, and again
    for stop in stops:
        assert (await machine.at(stop)).digest() == true[stop]


async def test_ids_times_and_ordinals_find_their_event(history: History, machine: TimeMachine) -> None:
    chronicle = machine._chronicle
    assert len(chronicle) == len(history.entries)
    for ordinal in (1, 2, 700, len(history.entries)):
        id = history.entries[ordinal - 1].id
        assert chronicle.id_of(ordinal) == id
        assert chronicle.type_of(ordinal) == history.entries[ordinal - 1].type
        assert chronicle.ordinal_of(AtId(id)) == ordinal
        assert chronicle.ordinal_of(AtTime(int(id.split("-")[0]))) == ordinal
        assert chronicle.ordinal_of(AtTime(int(id.split("-")[0]) - 1)) == ordinal - 1
    assert chronicle.ordinal_of(AtOrdinal(10**9)) == len(history.entries)


async def test_failures_are_found_before_and_after_any_event(history: History, machine: TimeMachine) -> None:
    chronicle = machine._chronicle
    failures = [n for n, entry in enumerate(history.entries, 1) if entry.type in ("AttemptFailed", "TaskDeadLettered")]
    assert len(failures) > 60
    assert chronicle.failure_after(0) == failures[0]
    assert chronicle.failure_after(failures[0]) == failures[1]
    assert chronicle.failure_before(failures[1]) == failures[0]
    assert chronicle.failure_before(failures[0]) is None
    assert chronicle.failure_after(failures[-1]) is None


async def test_entries_are_read_by_number_over_pages(history: History, machine: TimeMachine) -> None:
    assert await machine.entries(200, 600) == history.entries[199:600]
    assert await machine.entries(len(history.entries), len(history.entries) + 50) == history.entries[-1:]
