"""Curves in braille."""

from hypothesis import example, given
from hypothesis import strategies as st

from mloc.console import braille


def test_a_falling_line_falls_from_the_left_top_to_the_right_bottom() -> None:
    lines = braille.curve([3, 2, 1, 0], width=2, height=1)
    assert lines == ["⠑⢄"]


def test_a_gap_is_left_where_a_value_is_no_number() -> None:
    assert braille.curve([1.0, float("nan"), 1.0, 1.0], width=2, height=1) == ["⠄⠤"]


@example([1.8e308 / 1.01, -1.8e308 / 1.01], 1, 1)
@given(st.lists(st.floats(), max_size=300), st.integers(1, 40), st.integers(1, 8))
def test_any_values_fill_exactly_the_canvas(values: list[float], width: int, height: int) -> None:
    lines = braille.curve(values, width, height)
    assert [len(line) for line in lines] == [width] * height
