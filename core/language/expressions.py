"""Small arithmetic over results: `round(mean(eval.items[0].score) * 100, 1)`. Numbers, paths, + - * / and a few functions, nothing else."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from mloc.core.language.errors import shown

MAX_CHARACTERS = 400
MAX_STEPS = 10_000
"""Values that one evaluation may touch, items of a list counted."""

_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


class ExpressionError(ValueError):
    """An expression is malformed, names what is not there, or computes with what is no number."""


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sum": sum, "mean": _mean, "min": min, "max": max, "len": len, "round": round, "abs": abs,
}  # fmt: skip


def names_in(expression: str) -> tuple[str, ...]:
    """The stages that an expression names. Raises ExpressionError when it holds anything but numbers, paths and known functions."""
    tree = _parsed(expression)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return tuple(dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called))


def stage_named(name: str, stages: Iterable[str]) -> str | None:
    """The stage that a name in an expression means: `my_stage` also stands for `my-stage`."""
    stages = list(stages)
    return name if name in stages else next((stage for stage in stages if stage.replace("-", "_") == name), None)


def evaluate(expression: str, values: Mapping[str, Any]) -> Any:
    """The value of an expression over results by stage name (`stage["name"]` reads as a path step). Raises ExpressionError.

    `stage.result.x` and `stage.x` are the same; a path through a list takes its step from every item."""
    budget = [MAX_STEPS]
    try:
        found = _value(_parsed(expression).body, values, budget)
    except ExpressionError:
        raise
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ExpressionError(f"{shown(expression)} cannot be computed: {error}") from None
    if isinstance(found, float) and not math.isfinite(found):
        raise ExpressionError(f"{shown(expression)} gives no finite number")
    return found


@lru_cache(maxsize=256)
def _parsed(expression: str) -> ast.Expression:
    if len(expression) > MAX_CHARACTERS:
        raise ExpressionError(f"the expression is longer than {MAX_CHARACTERS} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ExpressionError(f"{shown(expression)} cannot be read; write for example round(mean(stage.items), 2)") from error
    _check(tree.body, expression)
    return tree


def _check(node: ast.AST, expression: str) -> None:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return
        case ast.Name() | ast.Attribute() | ast.Subscript():
            _check_path(node, expression)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            _check(operand, expression)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            _check(left, expression)
            _check(right, expression)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS and arguments:
            for argument in arguments:
                _check(argument, expression)
        case _:
            part = ast.unparse(node) if isinstance(node, ast.expr) else expression
            raise ExpressionError(f"{shown(part)} is not allowed; use numbers, paths, + - * / and {', '.join(_FUNCTIONS)}")


def _check_path(node: ast.AST, expression: str) -> None:
    match node:
        case ast.Name():
            return
        case ast.Attribute(value=inner) if not node.attr.startswith("_"):
            _check_path(inner, expression)
        case ast.Subscript(value=inner, slice=ast.Constant(value=int() | str())):
            _check_path(inner, expression)
        case _:
            raise ExpressionError(f"{shown(expression)} holds a path that cannot be read; write stage.items[0].score")


def _value(node: ast.AST, values: Mapping[str, Any], budget: list[int]) -> Any:
    _spend(budget, 1)
    match node:
        case ast.Constant(value=number):
            return number
        case ast.Name(id=name):
            stage = stage_named(name, values)
            if stage is None:
                raise ExpressionError(f"there is no stage {shown(name)}; there is {', '.join(sorted(values)) or 'none'}")
            return values[stage]
        case ast.Attribute(value=inner, attr=step):
            return _step(_value(inner, values, budget), step, isinstance(inner, ast.Name), budget)
        case ast.Subscript(value=inner, slice=ast.Constant(value=int() | str() as step)):
            return _step(_value(inner, values, budget), step, isinstance(inner, ast.Name), budget)
        case ast.UnaryOp(op=op, operand=operand):
            number = _number(_value(operand, values, budget))
            return -number if isinstance(op, ast.USub) else number
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](_number(_value(left, values, budget)), _number(_value(right, values, budget)))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _called(name, [_value(argument, values, budget) for argument in arguments], budget)
        case _:
            raise ExpressionError("the expression cannot be computed")


def _called(name: str, arguments: list[Any], budget: list[int]) -> Any:
    first = arguments[0]
    if isinstance(first, list | tuple):
        _spend(budget, len(first))
    match name:
        case "len" if len(arguments) == 1 and isinstance(first, list | tuple | str | dict):
            return len(first)
        case "sum" | "mean" if len(arguments) == 1 and isinstance(first, list | tuple):
            return _FUNCTIONS[name]([_number(one) for one in first])
        case "min" | "max":
            return _FUNCTIONS[name]([_number(one) for one in (first if isinstance(first, list | tuple) else arguments)])
        case "abs" if len(arguments) == 1:
            return abs(_number(first))
        case "round" if len(arguments) == 1 or (len(arguments) == 2 and isinstance(arguments[1], int) and abs(arguments[1]) < 20):
            return round(_number(first), *arguments[1:])
        case _:
            raise ExpressionError(f"{name} cannot take {', '.join(shown(argument) for argument in arguments)}")


def _step(value: Any, step: str | int, at_stage: bool, budget: list[int]) -> Any:
    if at_stage and step == "result" and not (isinstance(value, dict) and "result" in value):
        return value
    match value, step:
        case dict(), str() if step in value:
            return value[step]
        case list() | tuple(), int() if -len(value) <= step < len(value):
            return value[step]
        case list() | tuple(), str():
            _spend(budget, len(value))
            return [_step(item, step, False, budget) for item in value]
        case _:
            there = ", ".join(sorted(map(str, value))[:12]) if isinstance(value, dict) else shown(value)
            raise ExpressionError(f"there is no {shown(step)}; there is {there}")


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionError(f"{shown(value)} is no number")
    if isinstance(value, int) and value.bit_length() > 256:
        raise ExpressionError("a number is too large")
    return value


def _spend(budget: list[int], steps: int) -> None:
    budget[0] -= steps
    if budget[0] < 0:
        raise ExpressionError(f"the expression touches more than {MAX_STEPS:,} values")
