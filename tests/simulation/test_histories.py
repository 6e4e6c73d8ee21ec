"""Services and workers in thousands of random histories; and that the simulation would notice if a protection were missing.

A failing seed replays: `MLOC_SEEDS=17 python -m pytest tests/simulation -k break_no`.
"""

import os
from unittest.mock import patch

import pytest

from mloc.core import codec
from tests.simulation.mutants import MUTANTS, mutant
from tests.simulation.world import EPOCH_MS, PLAIN, TAILS, WHOLE_LOGS, Violation, run_history

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # of the dead processes

QUICK, DEEP, LOST_TAILS, LOST_LOGS = 30, 300, 60, 40
MUTANT_SEEDS = 400


def seeds_of(most: int) -> range:
    """`MLOC_SEEDS=17:18` runs just those."""
    asked = os.environ.get("MLOC_SEEDS", "")
    first, _, last = asked.partition(":")
    return range(int(first), int(last or int(first) + 1)) if asked else range(most)


def broken(seeds: range, **options: object) -> list[str]:
    found = []
    for seed in seeds:
        try:
            run_history(seed, **options)
        except Violation as error:
            found.append(str(error))
    return found


def test_histories_break_no_invariant():
    assert broken(seeds_of(QUICK)) == []


def test_the_same_seed_gives_the_same_history():
    first, second = run_history(7), run_history(7)
    assert first.server.state.entries == second.server.state.entries
    assert first.server.state.entries != run_history(8).server.state.entries


def test_no_attempt_number_comes_twice_where_the_log_is_lost_as_a_whole():
    # in this one a submission is dispatched, its answer is lost, and all of the log with it; the client then sends it again
    seed = 508
    again = run_history(seed, may_lose=TAILS, needs=PLAIN)
    dispatched = [codec.decode(entry.type, entry.payload) for entry in again.server.state.entries if entry.type == "TaskDispatched"]
    assert max(event.attempt for event in dispatched) > EPOCH_MS
    with patch("tests.simulation.world.sent_again", list), pytest.raises(Violation, match="was dispatched twice"):
        run_history(seed, may_lose=TAILS, needs=PLAIN)


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_many_histories_break_no_invariant():
    assert broken(seeds_of(DEEP)) == []


@pytest.mark.deep
def test_histories_in_which_the_server_loses_its_tail_break_no_invariant():
    assert broken(seeds_of(LOST_TAILS), may_lose=TAILS) == []


@pytest.mark.deep
def test_histories_in_which_the_server_loses_all_of_its_log_break_no_invariant():
    assert broken(seeds_of(LOST_LOGS), may_lose=WHOLE_LOGS) == []


@pytest.mark.deep
@pytest.mark.parametrize("name", MUTANTS)
def test_a_missing_protection_is_noticed(name):
    with mutant(name) as options:
        assert any(broken(range(seed, seed + 1), **options) for seed in range(MUTANT_SEEDS))
