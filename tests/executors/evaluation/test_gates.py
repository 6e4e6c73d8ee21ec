"""Gates: what passes, what does not and with which words, and what cannot be compared."""

from types import SimpleNamespace
from typing import Any

import pytest

from mloc.core.language.training_spec import Gate
from mloc.executors.contract import ExecutorError
from mloc.executors.evaluation.gates import check_gate, pass_gate

METRICS = {"accuracy": {"value": 0.5, "stderr": 0.1, "n": 26}, "arc/acc": {"value": 0.25, "stderr": None, "n": 4}}


def context(**inputs: Any) -> Any:
    return SimpleNamespace(inputs={name: {"task_id": f"id.{name}", "result": {"metrics": metrics}} for name, metrics in inputs.items()})


def refused(gate: Gate, **inputs: Any) -> str:
    with pytest.raises(ExecutorError) as raised:
        pass_gate(gate, METRICS, context(**inputs))
    assert not raised.value.retryable
    return raised.value.message


def test_a_bound_that_is_reached_passes() -> None:
    assert pass_gate(Gate("accuracy", min=0.5), METRICS, context()) == {"metric": "accuracy", "value": 0.5, "passed": True, "min": 0.5}
    assert pass_gate(Gate("acc", better_than=0.2), METRICS, context())["metric"] == "arc/acc"


def test_a_bound_that_is_not_reached_says_by_how_much() -> None:
    assert refused(Gate("accuracy", min=0.75)) == "accuracy is 0.5 ± 0.1 over 26 rows; the gate asks for at least 0.75: 0.25 too little"
    assert refused(Gate("accuracy", better_than=0.5)).endswith("the gate asks for more than 0.5: the same")


def test_a_model_has_to_be_better_than_another_tasks_by_name_or_by_id() -> None:
    other = {"accuracy": {"value": 0.4, "stderr": 0.1, "n": 26}}
    assert pass_gate(Gate("accuracy", better_than="base"), METRICS, context(base=other))["better_than"] == 0.4
    assert pass_gate(Gate("accuracy", better_than="id.base"), METRICS, context(base=other))["passed"]
    other["accuracy"]["value"] = 0.7
    assert refused(Gate("accuracy", better_than="base"), base=other).endswith("the gate asks for more than base has: 0.7: 0.2 less")


def test_what_cannot_be_compared_is_said_before_anything_is_computed() -> None:
    with pytest.raises(ExecutorError, match=r"depends on no stage or task 'base' \(add dependsOn\); there are: other"):
        check_gate(Gate("accuracy", better_than="base"), context(other=METRICS))
    with pytest.raises(ExecutorError, match="base has no metrics"):
        check_gate(Gate("accuracy", better_than="base"), context(base={}))
    with pytest.raises(ExecutorError, match="neither min nor better_than"):
        check_gate(Gate("accuracy"), context())
    assert "did you mean 'accuracy'" in refused(Gate("acuracy", min=0.1))
