"""The terms of a reward, summed by weight: rules about the text of an answer, a function of the user's own, or a model.

A term gives each answer a number; the rules give 0 to 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct

from mloc.core.language.spec import TaskSpec
from mloc.core.language.training_spec import Reward, RewardModel
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.rows.rows import Row
from mloc.executors.training.rewards.python_reward import PythonReward
from mloc.executors.training.rewards.reward_models import load_scorer

ANSWER_COLUMNS = ("answer", "reference", "solution", "response", "completion", "label", "target")
THINK_THEN_ANSWER = r"^\s*<think>.*?</think>\s*<answer>.*?</answer>\s*$"  # the format reward of DeepSeek-R1 (arXiv:2501.12948)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_FINAL = re.compile(r"<answer>(.*?)</answer>|\\boxed\{([^{}]*)\}|####\s*([^\n]+)", re.DOTALL)


class Answer(Struct, frozen=True):
    """What a model said (`text`) to the turns before it, which come from `row`."""

    turns: list[dict[str, Any]]
    text: str
    row: Row


Score = Callable[[Sequence[Answer]], list[float]]


class Term(Struct, frozen=True):
    """One part of a reward. `name` is unique among the parts. `close` lets go of what it holds."""

    name: str
    weight: float
    score: Score
    close: Callable[[], None] = lambda: None


def rewards_of(spec: TaskSpec) -> tuple[Reward, ...]:
    """The reward model as one term, and the terms of `rewards`. Raises ExecutorError where there is neither."""
    if spec.reward_model is not None:
        return (Reward("model", name="reward_model", model=spec.reward_model), *spec.rewards)
    if not spec.rewards:
        what = "a reward_model (a classifier, or a stage of type reward), or rewards"
        raise ExecutorError("NoReward", f"the task says nothing of what is good: give it {what}")
    return spec.rewards


def reward_terms(rewards: Iterable[Reward], context: Context) -> list[Term]:
    """The terms as functions, models loaded. Raises ExecutorError for one that cannot be computed."""
    terms: list[Term] = []
    for reward in rewards:
        name = reward.name or reward.type
        number = sum(term.name.partition("#")[0] == name for term in terms)
        name = f"{name}#{number + 1}" if number else name
        if reward.type == "python":
            written = PythonReward(reward, context)
            terms.append(Term(name, reward.weight, lambda answers, by=written: by.score([(a.turns, a.text, a.row) for a in answers]), written.close))
        else:
            terms.append(Term(name, reward.weight, _score(reward, context)))
    return terms


def total_rewards(terms: Sequence[Term], answers: Sequence[Answer]) -> tuple[list[float], dict[str, float]]:
    """(the weighted sum for each answer, each term's mean by its name)."""
    totals = [0.0] * len(answers)
    means: dict[str, float] = {}
    for term in terms:
        scores = term.score(answers)
        totals = [total + term.weight * score for total, score in zip(totals, scores, strict=True)]
        means[f"rewards/{term.name}"] = sum(scores) / max(len(scores), 1)
    return totals, means


def _score(reward: Reward, context: Context) -> Score:
    match reward.type:
        case "accuracy":
            return lambda answers: [_accuracy(answer, reward.column) for answer in answers]
        case "format" | "regex":
            pattern = _pattern(reward)
            return lambda answers: [float(pattern.search(answer.text) is not None) for answer in answers]
        case "length":
            return lambda answers: [_length(len(answer.text), reward) for answer in answers]
        case "json_schema":
            return _json_schema(reward)
        case "model":
            return _by_model(reward, context)
    raise ExecutorError("BadSetting", f"rewards: there is no term of type {reward.type}")


def _accuracy(answer: Answer, column: str | None) -> float:
    """1 where the final answer is the reference: equal numbers, or the same words without regard to case, blanks and a full stop."""
    wanted = _reference(answer.row, column)
    final = _FINAL.search(answer.text)
    said = next((group for group in final.groups() if group is not None), "") if final else answer.text
    if (number := _as_number(wanted)) is not None:
        numbers = _NUMBER.findall(said)
        return float(bool(numbers) and _as_number(numbers[-1]) == number)
    return float(_plain(said) == _plain(wanted))


def _reference(row: Row, column: str | None) -> str:
    known = {**row.columns, **row.metadata}
    for name in (column,) if column else ANSWER_COLUMNS:
        if known.get(name) is not None:
            return str(known[name])
    where = f"column {column!r}" if column else f"none of the columns {', '.join(ANSWER_COLUMNS)}"
    raise ExecutorError("WrongColumns", f"rewards: row {row.index} has {'no ' if column else ''}{where} to compare with; it has {', '.join(known)}")


def _as_number(text: str) -> float | None:
    final = _FINAL.search(text)
    stripped = (next((group for group in final.groups() if group is not None), text) if final else text).strip().replace(",", "")
    try:
        return float(stripped)
    except ValueError:
        return None


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".!")


def _pattern(reward: Reward) -> re.Pattern[str]:
    text = reward.pattern or (THINK_THEN_ANSWER if reward.type == "format" else "")
    if not text:
        raise ExecutorError("BadSetting", "rewards: a term of type regex needs a pattern")
    try:
        return re.compile(text, re.DOTALL)
    except re.error as error:
        raise ExecutorError("BadSetting", f"rewards: the pattern {text!r} is no regular expression: {error}") from error


def _length(length: int, reward: Reward) -> float:
    """1 within the bounds, falling to 0 over as many characters as the bound itself is long."""
    if reward.target_length is not None:
        return max(0.0, 1 - abs(length - reward.target_length) / max(reward.target_length, 1))
    if reward.min_length is not None and length < reward.min_length:
        return length / reward.min_length
    if reward.max_length is not None and length > reward.max_length:
        return max(0.0, 1 - (length - reward.max_length) / max(reward.max_length, 1))
    return 1.0


def _json_schema(reward: Reward) -> Score:
    import jsonschema

    if reward.json_schema is None:
        raise ExecutorError("BadSetting", "rewards: a term of type json_schema needs a json_schema")
    kind = jsonschema.validators.validator_for(reward.json_schema)
    try:
        kind.check_schema(reward.json_schema)
    except jsonschema.SchemaError as error:
        raise ExecutorError("BadSetting", f"rewards: the json_schema is none: {error.message}") from error
    validator = kind(reward.json_schema)

    def score(answer: Answer) -> float:
        try:
            return float(validator.is_valid(json.loads(answer.text)))
        except (ValueError, RecursionError):  # no JSON, or nested beyond reading: worth nothing
            return 0.0

    return lambda answers: [score(answer) for answer in answers]


def _by_model(reward: Reward, context: Context) -> Score:
    wanted = RewardModel(identifier=reward.model) if isinstance(reward.model, str) else reward.model
    if wanted is None:
        raise ExecutorError("BadSetting", "rewards: a term of type model needs a model")
    scorer = load_scorer(wanted, context)
    return lambda answers: scorer([answer.turns for answer in answers], [answer.text for answer in answers])

