"""A graph template makes a prompt of the results of earlier stages."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloc.core.language.data_spec import GraphTemplateData, Template, TemplateColumn, TemplateOptions
from mloc.core.language.errors import LanguageError
from mloc.core.language.expressions import ExpressionError, evaluate, names_in
from mloc.core.language.graph_template import render_graph_template

INPUTS: dict[str, Any] = {
    "answer": {"result": {"items": [{"output": "Paris", "score": 1}, {"output": "a|b\nc", "score": 0.5}], "usage": {"total_tokens": 12}}},
    "pre-train": {"result": {"training": {"loss": 0.123456789, "history": [3, 2, 1]}}},
}
RESULTS = {name: one["result"] for name, one in INPUTS.items()}


def rendered(**template: Any) -> dict[str, Any]:
    columns = tuple(TemplateColumn(**column) for column in template.pop("columns", ()))
    (row,) = render_graph_template(GraphTemplateData(template=Template(columns=columns, **template)), INPUTS)
    return row


def test_columns_become_lines_with_words_around_them() -> None:
    row = rendered(
        columns=[{"label": "First", "node": "answer", "path": "items[0].output"}, {"label": "Loss", "expr": "round(pre_train.training.loss, 2)"}],
        options=TemplateOptions(role="You sum up.", intro="Sum up:", closing="Be short."),
    )
    assert row == {"prompt": "Sum up:\n\nFirst: Paris\nLoss: 0.12\n\nBe short.", "system": "You sum up."}


def test_columns_of_lists_become_a_table() -> None:
    row = rendered(columns=[{"label": "A", "node": "answer", "path": "result.items[*].output"}, {"label": "T", "path": "answer.usage.total_tokens"}])
    assert row["prompt"] == "| A | T |\n| --- | --- |\n| Paris | 12 |\n| a\\|b c | 12 |"


def test_a_text_takes_columns_by_their_labels() -> None:
    columns = [{"label": "x", "node": "answer", "path": "items[0].output"}, {"label": "y", "node": "pre-train", "path": "training"}]
    assert rendered(columns=columns, text="{x}! {y} {other}")["prompt"] == 'Paris! {"loss":0.123456789,"history":[3,2,1]} {other}'
    assert rendered(columns=columns[:1], text="All: {columns}.")["prompt"] == "All: x: Paris."


def test_a_default_stands_in_for_what_is_missing() -> None:
    columns = [{"label": "a", "node": "gone", "path": "x", "default": 0}, {"label": "b", "expr": "answer.nothing / 2", "default": "?"}]
    assert rendered(columns=columns)["prompt"] == "a: 0\nb: ?"


def test_what_is_missing_without_a_default_is_said_at_once() -> None:
    with pytest.raises(LanguageError) as caught:
        rendered(columns=[{"node": "answer", "path": "itms"}, {"expr": "mean(answer.scores)"}, {"node": "nobody", "path": "x"}])
    first, second, third = caught.value.problems
    assert "spec.data.template.columns[0]" in str(first)
    assert "items, usage" in str(first)
    assert '"scores"' in str(second)
    assert "answer, pre-train" in str(third)


@pytest.mark.parametrize(("expression", "value"), [
    ("1 + 2 * 3", 7), ("-(4 - 1) / 2", -1.5), ("mean(answer.items.score)", 0.75), ("sum(pre_train.training.history)", 6),
    ("len(answer.items)", 2), ("max(1, answer.items[1].score)", 1), ("min(pre_train.training.history)", 1), ("abs(-2)", 2),
    ("answer['usage']['total_tokens']", 12), ("answer.result.usage.total_tokens", 12), ("answer.items[0].output", "Paris"),
])  # fmt: skip
def test_an_expression_computes(expression: str, value: Any) -> None:
    assert evaluate(expression, RESULTS) == value


@pytest.mark.parametrize("expression", [
    "", "1 +", "open('x')", "answer.__class__", "__import__('os')", "[1, 2]", "lambda: 1", "'a' * 9", "2 ** 9", "1 if 1 else 2", "f'{1}'",
    "answer.items[0:1]", "round(1, ndigits=2)", "len()", "answer()", "(" * 300, "1" * 401, "a.b().c", "x := 1", "True", "1_0j", "not 1", "a[b]",
])  # fmt: skip
def test_what_is_more_than_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(ExpressionError):
        names_in(expression)


@pytest.mark.parametrize("expression", [
    "1 / 0", "mean(answer.items)", "answer.items + 1", "nobody.x", "answer.x", "answer.items[9]", "len(5)", "round(1, 99)", "sum(1)",
    "1e308 * 10", "*".join(["9999999999"] * 35), "round(answer.usage, 1)", "mean(answer.empty)",
])  # fmt: skip
def test_what_cannot_be_computed_is_said(expression: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(expression, {**RESULTS, "empty": []})


def test_an_expression_over_very_long_lists_is_refused() -> None:
    with pytest.raises(ExpressionError, match="more than"):
        evaluate("sum(a) + sum(a)", {"a": [1] * 6_000})


@given(st.text("0123456789.+-*/()[]'ab_, lensum", max_size=40))
def test_any_text_is_computed_or_refused(expression: str) -> None:
    with suppress(ExpressionError):
        evaluate(expression, {"a": [1, 2], "b": {"a": 1}})
