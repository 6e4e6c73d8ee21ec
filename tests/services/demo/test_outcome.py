"""The demo's figures are what the results say, and a result that says otherwise ends it."""

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mloc.services.demo.failure import DemoFailed
from mloc.services.demo.main_job import answers_table
from mloc.services.demo.outcome import Answered, Pair, answered, changed_first, compared, trained
from mloc.services.demo.sparkline import sparkline

USAGE = {"prompt_tokens": 3, "completion_tokens": 20, "total_tokens": 600, "latency_sec": 4.0, "num_requests": 1}


def training(first: float = 3.5, final: float = 0.25, **last: float) -> bytes:
    history = [{"loss": first, "step": 10.0}, {"loss": final, "step": 20.0}, {"train_loss": 1.0, **last}]
    return msgspec.json.encode({"ok": True, "training": {"steps": 20, "first_loss": first, "final_loss": final, "history": history}, "usage": USAGE})


def answers(*outputs: str, first: int = 0) -> Answered:
    items = [{"index": first + at, "prompt": f"question {at}", "output": output} for at, output in enumerate(outputs)]
    return answered("stage", msgspec.json.encode({"items": items, "usage": USAGE}))


def test_losses_and_speed_come_from_the_training_result() -> None:
    found = trained("pretrain", training(train_runtime=2.0))
    assert found.losses == [3.5, 0.25]
    assert found.tokens_per_sec == 300
    assert trained("pretrain", training()).tokens_per_sec == 150


@pytest.mark.parametrize("result", [training(first=1.0, final=1.5), training(first=1.0, final=1.0), b'{"ok": true}', b"not json"])
def test_a_training_that_did_not_learn_or_left_no_result_ends_the_demo(result: bytes) -> None:
    with pytest.raises(DemoFailed, match="pretrain"):
        trained("pretrain", result)


def test_answers_are_compared_question_by_question_the_changed_ones_first() -> None:
    pairs = compared(answers("a", "b", "c"), answers("a", "B", "c"))
    assert changed_first(pairs) == [Pair("question 1", "b", "B"), Pair("question 0", "a", "a"), Pair("question 2", "c", "c")]


@pytest.mark.parametrize(("before", "after"), [(("a", "b"), ("A",)), ((), ()), (("a", "b"), ("a", "b"))])
def test_a_missing_answer_or_a_tuning_without_effect_ends_the_demo(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    with pytest.raises(DemoFailed):
        compared(answers(*before), answers(*after))


def test_answers_to_other_questions_end_the_demo() -> None:
    with pytest.raises(DemoFailed, match="questions"):
        compared(answers("a"), answers("b", first=1))


def test_a_result_without_counted_tokens_ends_the_demo() -> None:
    empty: dict[str, Any] = {"items": [], "usage": {**USAGE, "latency_sec": 0.0}}
    with pytest.raises(DemoFailed, match="counts no tokens"):
        answered("answer", msgspec.json.encode(empty))


def test_the_table_of_answers_has_columns() -> None:
    head, row = answers_table([Pair("why?", "because it is so", "so")])
    assert row == "why?       because it is so    so"
    assert head == "question   before the tuning   after the tuning"


@given(st.lists(st.floats(), max_size=60), st.integers(1, 30))
@example([1e308, 1e308], 1)
@example([1.7e308, -1.7e308, 0.0], 3)
@example([5e-324, 0.0], 2)
def test_a_sparkline_is_as_wide_as_there_is_something_to_show(values: list[float], width: int) -> None:
    shown = sparkline(values, width)
    assert len(shown) <= width
    assert set(shown) <= set("▁▂▃▄▅▆▇█")


def test_a_falling_loss_falls() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert sparkline([float("nan"), 1.0]) == "▁"
    assert sparkline([]) == ""
