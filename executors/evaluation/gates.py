"""The gate of an evaluation: good enough, or better than another, else the task fails and what waits for it does not start."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from mloc.core.language.training_spec import Gate
from mloc.executors.contract import Context, ExecutorError

NOT_PASSED = "GateNotPassed"

Metrics = Mapping[str, Mapping[str, Any]]


def check_gate(gate: Gate | None, context: Context) -> None:
    """Raises ExecutorError where the gate compares with a task that gave no metrics; before anything is computed."""
    if gate is not None:
        if gate.min is None and gate.better_than is None:
            raise ExecutorError("BadSetting", "eval.gate says neither min nor better_than")
        _other(gate, context)


def pass_gate(gate: Gate, metrics: Metrics, context: Context) -> dict[str, Any]:
    """What the result says of the gate. Raises ExecutorError, which is not tried again, where it is not passed, with by how much."""
    name, measured = metric_of(gate.metric, metrics)
    value = measured["value"]
    said: dict[str, Any] = {"metric": name, "value": value, "passed": True}
    shown = f"{name} is {_number(value)}" + (f" ± {_number(measured['stderr'])}" if measured.get("stderr") is not None else "")
    shown += f" over {measured['n']} rows"
    if gate.min is not None:
        said["min"] = gate.min
        if value < gate.min:
            raise _not_passed(f"{shown}; the gate asks for at least {_number(gate.min)}: {_number(gate.min - value)} too little")
    if (other := _other(gate, context)) is not None:
        words, theirs = other
        least = theirs if isinstance(theirs, float) else metric_of(name, theirs)[1]["value"]
        said["better_than"] = least
        if not value > least:
            short = "the same" if value == least else f"{_number(least - value)} less"
            raise _not_passed(f"{shown}; the gate asks for more than {words}{_number(least)}: {short}")
    return said


def metric_of(name: str, metrics: Metrics) -> tuple[str, Mapping[str, Any]]:
    """The metric of that name, or the one that ends with it; the first where no name is given. Raises ExecutorError."""
    if not name and metrics:
        name = next(iter(metrics))
    if name in metrics:
        return name, metrics[name]
    ending = [key for key in metrics if key.rpartition("/")[2] == name]
    if len(ending) == 1:
        return ending[0], metrics[ending[0]]
    near = difflib.get_close_matches(name, list(metrics), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    which = "more than one metric is called" if ending else "there is no metric"
    raise ExecutorError("BadSetting", f"eval.gate.metric: {which} {name!r}; there are {', '.join(metrics) or 'none'}{hint}")


def _other(gate: Gate, context: Context) -> tuple[str, float | Metrics] | None:
    """What the gate compares with, in words, and its number or its metrics."""
    other = gate.better_than
    if other is None:
        return None
    if isinstance(other, int | float):
        return "", float(other)
    given = context.inputs.get(other) or next((one for one in context.inputs.values() if one["task_id"] == other), None)
    if given is None:
        known = f"no stage or task {other!r} (add dependsOn); there are: {', '.join(context.inputs) or 'none'}"
        raise ExecutorError("BadSetting", f"eval.gate.better_than: the task depends on {known}")
    metrics = (given.get("result") or {}).get("metrics")
    if not isinstance(metrics, Mapping) or not metrics:
        raise ExecutorError("BadSetting", f"eval.gate.better_than: {other} has no metrics in its result; only a task of type eval has")
    return f"{other} has: ", metrics


def _not_passed(words: str) -> ExecutorError:
    return ExecutorError(NOT_PASSED, words)


def _number(value: float) -> str:
    return f"{value:.4g}"
