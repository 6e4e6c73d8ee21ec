"""The terms of a reward, on answers that are easy to judge."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from mloc.core.language.training_spec import Reward
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.rows.rows import Row
from mloc.executors.training.rewards.reward_terms import Answer, reward_terms, total_rewards

NOWHERE = Path("/nonexistent")


def context() -> Context:
    return Context(
        folder=NOWHERE, final_folder=NOWHERE, rows_folder=NOWHERE, inputs={}, devices=(), shard=None, checkpoint=None, seed=0,
        stopping=lambda: False, report=lambda said: None,
    )  # fmt: skip


def scored(text: str, wanted: Any = None, **reward: Any) -> float:
    (term,) = reward_terms([Reward(**reward)], context())
    return term.score([Answer([], text, Row(0, columns={} if wanted is None else {"answer": wanted}))])[0]


@pytest.mark.parametrize(
    ("text", "wanted", "score"),
    [
        ("The sum is 12.", "12", 1), ("12 plus 1 is 13", 12, 0), ("<answer>1,200</answer> of 7", "1200", 1), (r"so \boxed{0.5}", 0.50, 1),
        ("7\n#### 42", "#### 42", 1), ("paris.", "Paris", 1), ("It is Paris", "Paris", 0), ("<answer> Paris </answer>", "Paris", 1), ("", "3", 0),
    ],
)  # fmt: skip
def test_an_answer_is_right_when_its_final_part_is_the_reference(text: str, wanted: Any, score: float) -> None:
    assert scored(text, wanted, type="accuracy") == score


def test_the_format_reward_asks_for_thoughts_and_then_an_answer() -> None:
    assert scored("<think>hm\n</think>\n<answer>4</answer>", type="format") == 1
    assert scored("<answer>4</answer>", type="format") == 0


@pytest.mark.parametrize(
    ("length", "bounds", "score"),
    [
        (10, {"target_length": 10}, 1), (5, {"target_length": 10}, 0.5), (25, {"target_length": 10}, 0), (4, {"min_length": 8}, 0.5),
        (12, {"max_length": 8}, 0.5), (6, {"min_length": 4, "max_length": 8}, 1),
    ],
)  # fmt: skip
def test_length_is_rewarded_within_bounds_and_less_so_outside(length: int, bounds: dict[str, int], score: float) -> None:
    assert scored("x" * length, type="length", **bounds) == score


def test_json_is_rewarded_when_it_follows_its_schema() -> None:
    schema = {"type": "object", "required": ["city"]}
    assert [scored(text, type="json_schema", json_schema=schema) for text in ('{"city": 1}', "{}", "no json", "[" * 5000)] == [1, 0, 0, 0]


def test_terms_are_summed_by_weight_and_told_by_name() -> None:
    terms = reward_terms([Reward("regex", pattern="a", weight=2), Reward("regex", pattern="b", weight=-1)], context())
    totals, means = total_rewards(terms, [Answer([], text, Row(0)) for text in ("a", "ab", "b", "")])
    assert totals == [2, 1, -1, 0]
    assert means == {"rewards/regex": 0.5, "rewards/regex#2": 0.5}


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"type": "regex"}, "needs a pattern"), ({"type": "regex", "pattern": "("}, "no regular expression"), ({"type": "model"}, "needs a model"),
        ({"type": "json_schema", "json_schema": {"type": "objekt"}}, "the json_schema is none"),
    ],
)  # fmt: skip
def test_a_term_that_cannot_be_computed_is_refused(reward: dict[str, Any], said: str) -> None:
    with pytest.raises(ExecutorError, match=said):
        reward_terms([Reward(**reward)], context())


def test_a_row_without_a_reference_is_named_with_the_columns_that_it_has() -> None:
    with pytest.raises(ExecutorError, match="row 0 has no column 'truth' to compare with; it has answer"):
        scored("4", "4", type="accuracy", column="truth")


def by_python(code: str, *answers: tuple[str, Row], **more: Any) -> list[float]:
    (term,) = reward_terms([Reward("python", code=code, **more)], context())
    try:
        return term.score([Answer([{"role": "user", "content": row.prompt}], text, row) for text, row in answers])
    finally:
        term.close()


A, B = Row(4, prompt="2 and 2?", columns={"prompt": "2 and 2?", "answer": "4"}), Row(5, prompt="Say hi.", columns={"answer": "hi"})


def test_a_python_function_scores_an_answer_at_a_time_with_the_columns_that_it_names() -> None:
    code = "import re\ndef reward(prompt, completion, answer):\n    return float(answer in completion) + 0.1 * len(re.findall('2', prompt))"
    assert by_python(code, ("It is 4.", A), ("ho", B)) == [1.2, 0.0]


def test_a_python_function_scores_a_batch_as_those_of_trl_do() -> None:
    each = "None if c == 'ho' else len(c) + int(a == '4') for c, a in zip(completions, columns['answer'])"
    code = f"def short(prompts, completions, **columns):\n    return [{each}]"
    assert by_python(code, ("four", A), ("ho", B)) == [5.0, 0.0]


def test_conversations_reach_the_function_as_turns() -> None:
    row = Row(0, messages=[{"role": "user", "content": "hi"}])
    (term,) = reward_terms([Reward("python", code="def reward(completion, **more): return len(completion[0]['content'])")], context())
    assert term.score([Answer(row.messages or [], "four", row)]) == [4.0]
    term.close()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def reward(completion):\n    return 1 / 0", r"'reward': it failed at row 4: ZeroDivisionError: division by zero \(line 2\)"),
        ("def reward(completions):\n    return [1]", "it gave a list of 1 for 2 answers"),
        ("def reward(completion):\n    return 'good'", "it gave 'good' at row 4"),
        ("def reward(completion):\n    return float('nan')", "it gave nan at row 4"),
        ("def reward(completion) return", "is not Python"), ("x = 1", "defines no function"),
        ("def reward(text): return 1", "must take `completion`"),
        ("import nothing_of_this_name\ndef reward(completion): return 1", "its code cannot be run: ModuleNotFoundError"),
        ("def reward(completion, solution): return 1", "missing 1 required positional argument: 'solution'"),
        ("import os\ndef reward(completion): os.abort()", "it failed at row 4: its process ended"),
    ],
)  # fmt: skip
def test_a_python_function_that_fails_says_where_and_is_not_tried_again(code: str, said: str) -> None:
    with pytest.raises(ExecutorError, match=said) as raised:
        by_python(code, ("a", A), ("b", B))
    assert not raised.value.retryable


def test_a_python_function_that_does_not_end_is_ended() -> None:
    with pytest.raises(ExecutorError, match=r"it took longer than 0\.5 s"):
        by_python("def reward(completion):\n    while True: pass", ("a", A), timeout_sec=0.5)


def test_what_the_term_json_schema_needs_comes_with_the_extra_of_trainings() -> None:
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(needed.startswith("jsonschema>") for needed in extras["training"])
