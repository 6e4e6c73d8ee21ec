"""Scores of answers and what they come to."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloc.executors.evaluation.scores import normalized, score_answer, summed_up


@pytest.mark.parametrize(
    ("output", "references", "accuracy", "contains", "f1"),
    [
        ("Lima", ["lima"], 1, 1, 1),
        ("The Lima!", ["Lima."], 1, 1, 1),
        ("It is Lima", ["Lima"], 0, 1, 0.5),
        ("Quito", ["Lima"], 0, 0, 0),
        ("Quito", ["Lima", "quito"], 1, 1, 1),
        ("", ["Lima"], 0, 0, 0),
    ],
)
def test_an_answer_is_held_against_the_best_of_its_references(output: str, references: list[str], accuracy: int, contains: int, f1: float) -> None:
    assert score_answer(output, references) == {"accuracy": accuracy, "contains": contains, "f1": f1}


def test_a_pattern_says_what_of_the_answer_counts() -> None:
    assert score_answer("2 + 2 #### 3, no: #### 4", ["4"], r"#### (\d+)") == {"matched": 1, "accuracy": 1, "contains": 1, "f1": 1}
    assert score_answer("four", ["4"], r"#### (\d+)") == {"matched": 0, "accuracy": 0, "contains": 0, "f1": 0}
    assert score_answer("yes 7", [], r"\d") == {"matched": 1}


def test_a_row_without_an_answer_counts_as_nothing() -> None:
    assert summed_up([{"a": 1.0}, {"a": 1.0}], 4) == {"a": {"value": 0.5, "stderr": round(math.sqrt(1 / 3 / 4), 6), "n": 4}}
    assert summed_up([{"a": 1.0}], 1) == {"a": {"value": 1.0, "stderr": None, "n": 1}}


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_the_mean_lies_among_the_scores_and_its_error_is_none_where_they_agree(values: list[float]) -> None:
    told = summed_up([{"m": value} for value in values], len(values))["m"]
    assert min(values) - 1e-6 <= told["value"] <= max(values) + 1e-6
    assert told["stderr"] >= 0
    if len(set(values)) == 1:
        assert told["stderr"] == pytest.approx(0, abs=1e-6)


@given(st.text())
def test_what_is_normalized_stays_so(text: str) -> None:
    once = normalized(text)
    assert score_answer(once, [text])["accuracy"] == 1 or normalized(once) != once
