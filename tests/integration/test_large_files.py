"""A large file to the API and back: nobody on the way holds it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from artifacts import random_file, trial

SIZE_MIB = 256


@pytest.mark.deep
@pytest.mark.skipif(sys.platform != "linux", reason="reads peaks from /proc")
def test_a_file_goes_up_and_comes_down_in_the_memory_of_a_small_part_of_it(tmp_path: Path) -> None:
    # `trial` checks that what comes back is what was sent
    figures = asyncio.run(trial(tmp_path, tmp_path / "large", random_file(tmp_path / "large", SIZE_MIB << 20)))
    grown = {way: figures[way]["api_peak_mib"] - figures["api_before_mib"] for way in ("upload", "download")}
    clients = {way: figures[way]["client_peak_mib"] for way in ("upload", "download")}
    assert max(grown.values()) < SIZE_MIB / 8, grown
    assert 1 < max(clients.values()) < SIZE_MIB / 2, clients  # an interpreter with aiohttp is most of it
