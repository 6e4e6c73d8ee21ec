"""Cores and sizes as people write them become numbers, whatever the notation."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloc.core.language.quantities import QuantityError, cores, size_bytes

BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
DECIMAL = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@pytest.mark.parametrize(("written", "meant"), [
    (8, 8), ("8", 8), ("500m", 0.5), (0.5, 0.5), ("1500m", 1.5), ("2.5", 2.5), (" 4 ", 4),
])  # fmt: skip
def test_cores(written: str | float, meant: float) -> None:
    assert cores(written) == meant


@pytest.mark.parametrize(("written", "meant"), [
    ("32Gi", 32 << 30), ("32GiB", 32 << 30), ("32GB", 32 * 10**9), ("32G", 32 * 10**9), ("512M", 512 * 10**6), ("1.5Gi", 3 << 29), (1024, 1024),
    ("1024", 1024), ("10 GiB", 10 << 30), ("32gb", 32 * 10**9), ("0.1Ki", 103), ("7B", 7),
])  # fmt: skip
def test_sizes(written: str | int, meant: int) -> None:
    assert size_bytes(written) == meant


@pytest.mark.parametrize("written", ["", "G", "4Q", "4Gi4", "-1", "1e3Gi", "4 4", "500m", "∞", "1" * 40, "٣Gi", True, math.nan, math.inf, -1])
def test_what_is_no_size_is_refused_with_what_is_accepted(written: str | float) -> None:
    with pytest.raises(QuantityError, match="32Gi"):
        size_bytes(written)


@pytest.mark.parametrize("written", ["", "many", "4Gi", "-1", "1k", True, math.nan])
def test_what_is_no_number_of_cores_is_refused_with_what_is_accepted(written: str | float) -> None:
    with pytest.raises(QuantityError, match="500m"):
        cores(written)


@given(st.integers(0, 10**6), st.sampled_from([*BINARY.items(), *DECIMAL.items()]), st.sampled_from(["", "B"]))
def test_a_whole_size_is_exact_with_and_without_b(count: int, unit: tuple[str, int], tail: str) -> None:
    assert size_bytes(f"{count}{unit[0]}{tail}") == count * unit[1]


@given(st.integers(0, 10**9))
def test_milli_cores_are_thousandths(count: int) -> None:
    assert cores(f"{count}m") == count / 1000


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    with suppress(QuantityError):
        assert size_bytes(text) >= 0
