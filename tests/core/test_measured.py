"""Metrics of parts of the rows, put together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloc.core.measured import Measured, all_together, measured, together

VALUES = st.lists(st.one_of(st.floats(-5, 5), st.sampled_from((0.0, 1.0))), min_size=1, max_size=40)


@given(VALUES, st.data())
def test_parts_together_say_what_all_rows_at_once_would(values: list[float], data: st.DataObject):
    # given rows that are cut into parts of any sizes
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=6)))
    parts = [values[first:last] for first, last in zip([0, *cuts], [*cuts, len(values)], strict=True)]
    # when each part is measured and they are put together
    found = together(measured(part, len(part)) for part in parts if part)
    # then it is what measuring all at once gives
    whole = measured(values, len(values))
    assert found.n == whole.n
    assert found.value == pytest.approx(whole.value, abs=1e-9)
    assert found.stderr == pytest.approx(whole.stderr, abs=1e-6)


def test_a_part_with_more_rows_weighs_more():
    ones, zeros = measured([1.0] * 9, 9), measured([0.0], 1)
    assert together([ones, zeros]).value == 0.9  # the mean of their means would be 0.5


def test_a_part_that_lacks_a_metric_counts_with_all_its_rows():
    metrics = {"accuracy": {"value": 1.0, "stderr": 0.0, "n": 3}}
    assert all_together([(metrics, 3), ({}, 1)]) == {"accuracy": Measured(0.75, 0.25, 4)}
    assert all_together([({}, 2), ({}, 0)]) == {}


def test_rows_without_a_value_count_as_0():
    assert measured([1.0], 2) == measured([1.0, 0.0], 2)
    assert measured([1.0], 1) == Measured(1.0, None, 1)


def test_of_nothing_nothing_is_said():
    with pytest.raises(ValueError, match="nothing was measured"):
        together([])
