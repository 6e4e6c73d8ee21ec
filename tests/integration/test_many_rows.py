"""A hundred thousand rows from a file to whoever downloads them: nobody on the way holds them all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from rows import measure

ROWS = 100_000
MOST_MIB = {"host": 60, "result writer": 45, "worker": 80, "aggregator": 75, "intake-api": 88, "scheduler": 75, "command": 78, "export": 88}
"""A fifth to a third above what was measured. The rows are 18 MiB as bytes and a multiple of that as objects: who holds them has 60 MiB more."""


@pytest.mark.deep
@pytest.mark.skipif(sys.platform != "linux", reason="reads peaks from /proc")
@pytest.mark.parametrize(("rows", "shards"), [(10, 1), (20_000, 2)])
def test_fewer_rows_are_measured_as_well(rows: int, shards: int) -> None:
    # a small result is one line in the log, a larger one a file that the command lays out for people
    assert measure(rows, shards, workers=1)["rows"] == rows


@pytest.mark.deep
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="reads peaks from /proc")
@pytest.mark.parametrize("shards", [1, 16])
def test_rows_stream_through_every_process(shards: int) -> None:
    # `measure` checks that each row came back once and in order, over HTTP and from the command alike
    figures = measure(ROWS, shards, workers=1)
    assert figures["rows"] == ROWS
    assert figures["result_mib"] > 10
    peaks = figures["peak_rss_mib"]
    assert set(MOST_MIB) <= set(peaks)
    too_large = {name: peaks[name] for name, most in MOST_MIB.items() if not 1 < peaks[name] < most}
    assert too_large == {}
