"""A reward that the user wrote as a Python function, run in the sandbox.

    def reward(prompt, completion, answer):              # one answer at a time: a number; other names are the row's columns
        return float(answer in completion)

    def reward(prompts, completions, **columns):         # or all answers of a batch, lists in and a list out, as TRL's own examples do
        return [float(len(completion) < 40) for completion in completions]

Prompts and completions are texts where the rows ask in text, and lists of turns where the rows are conversations. The function named
`reward` is called, else the last one that the code defines.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any

from mloc.core.language.training_spec import Reward
from mloc.executors.contract import Context, ExecutorError, Progress
from mloc.executors.rows.rows import Row, Turn
from mloc.executors.sandbox import Limits, Sandbox

Asked = tuple[list[Turn], str, Row]  # the turns before an answer, the answer, where it comes from
PLURAL = {"prompt": "prompts", "completion": "completions"}


class PythonReward:
    """Scores batches until it is closed."""

    def __init__(self, reward: Reward, context: Context) -> None:
        """Raises ExecutorError where the code is no Python, defines no function, or fails while it is read."""
        self._name = reward.name or "python"
        self._function, self._takes, self._takes_all = _function_of(reward.code or "", self._name)
        self._sandbox = Sandbox(Limits(call_sec=reward.timeout_sec), stopping=context.stopping)
        self._stopping = context.stopping
        defined = self._sandbox.run((reward.code or "").rstrip())
        if defined.error:
            self._sandbox.close()
            raise self._failed(f"its code cannot be run: {defined.error}", retryable="could not be started" in defined.error)
        held = "; ".join(f"{subject}: {words}" for subject, words in self._sandbox.isolation.items())
        context.report(Progress((f"the reward {self._name} runs in a sandbox; {held}",)))

    def close(self) -> None:
        self._sandbox.close()

    def score(self, asked: Sequence[Asked]) -> list[float]:
        """A number each. Raises ExecutorError with the row where the function failed."""
        if self._stopping():
            return [0.0] * len(asked)  # the training ends at this step: nothing is learned from these
        return self._scores(asked, self._in_one_call(asked) if self._takes & {"completions"} else self._one_by_one(asked))

    def _in_one_call(self, asked: Sequence[Asked]) -> Any:
        given = [self._named(*one) for one in asked]
        names = list(dict.fromkeys(name for one in given for name in one))
        columns = {PLURAL.get(name, name): [one.get(name) for one in given] for name in names}
        wanted = columns if self._takes_all else {name: column for name, column in columns.items() if name in self._takes}
        return self._value(self._sandbox.call(self._function, **wanted), f"for {len(asked)} answers, {_rows_of(asked)}")

    def _one_by_one(self, asked: Sequence[Asked]) -> Any:
        scores: list[Any] = []
        for one in asked:
            given = self._named(*one)
            wanted = given if self._takes_all else {name: value for name, value in given.items() if name in self._takes}
            scores.append(self._value(self._sandbox.call(self._function, **wanted), f"at row {one[2].index}"))
            if self._stopping():
                return [0.0] * len(asked)
        return scores

    def _named(self, turns: list[Turn], text: str, row: Row) -> dict[str, Any]:
        """What a function may ask for by name."""
        is_text = isinstance(row.prompt, str) and row.messages is None
        columns = {name: value for name, value in {**row.columns, **row.metadata}.items() if name not in ("prompt", "completion")}
        return {**columns, "prompt": row.prompt, "completion": text} if is_text else {
            **columns, "prompt": turns, "completion": [{"role": "assistant", "content": text}],
        }  # fmt: skip

    def _value(self, answer: Any, where: str) -> Any:
        if answer.error and not self._stopping():
            raise self._failed(f"it failed {where}: {answer.error}")
        return answer.value

    def _scores(self, asked: Sequence[Asked], given: Any) -> list[float]:
        if self._stopping() and not isinstance(given, list):
            return [0.0] * len(asked)
        if not isinstance(given, list) or len(given) != len(asked):
            got = f"a list of {len(given)}" if isinstance(given, list) else type(given).__name__
            raise self._failed(f"it gave {got} for {len(asked)} answers; it must give a list of as many numbers")
        for value, (_, _, row) in zip(given, asked, strict=True):
            if value is not None and (not isinstance(value, int | float) or not math.isfinite(value)):
                raise self._failed(f"it gave {value!r} at row {row.index}; it must give a number, or None where it has nothing to say")
        return [0.0 if value is None else float(value) for value in given]

    def _failed(self, what: str, *, retryable: bool = False) -> ExecutorError:
        return ExecutorError("RewardFailed", f"rewards: the Python function {self._function or self._name!r}: {what}", retryable=retryable)


def _function_of(code: str, name: str) -> tuple[str, frozenset[str], bool]:
    """(name of the function that is called, names of what it takes, whether it takes any name)."""
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        raise ExecutorError("BadSetting", f"rewards: the code of {name!r} is not Python: {error.msg} (line {error.lineno})") from error
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if not functions:
        raise ExecutorError("BadSetting", f"rewards: the code of {name!r} defines no function; write `def reward(prompt, completion): …`")
    function = functions.get("reward") or list(functions.values())[-1]
    given = function.args
    takes = frozenset(one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs))
    if takes.isdisjoint({"completion", "completions"}):
        said = f"must take `completion` or `completions`; it takes {', '.join(sorted(takes))}"
        raise ExecutorError("BadSetting", f"rewards: {function.name} in the code of {name!r} {said}")
    return function.name, takes, given.kwarg is not None


def _rows_of(asked: Sequence[Asked]) -> str:
    rows = sorted({row.index for _, _, row in asked})
    return f"row {rows[0]}" if len(rows) == 1 else f"rows {rows[0]} to {rows[-1]}"
