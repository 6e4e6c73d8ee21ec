"""JSON read quickly is what YAML's reader makes of it, and what is doubtful is left to that reader."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mloc.core.language import yaml_source
from mloc.core.language.errors import LanguageError
from mloc.core.language.json_source import NONE, load_json
from mloc.core.language.reading import read_tasks

LETTERS = st.characters(codec="utf-8", exclude_characters="\u2028\u2029\ufeff", exclude_categories=["Cc", "Cs", "Cn", "Co"])
TEXTS = st.text(LETTERS, max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def quickly(text: str) -> Any:
    return load_json(text, yaml_source.MAX_WEIGHT, yaml_source._WEIGHT, yaml_source.MAX_DEPTH)


@given(st.dictionaries(TEXTS, VALUES, max_size=5))
def test_the_quick_way_and_yamls_give_the_same_values(value: dict[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assume("\\u" not in text)  # a backslash before a u: perhaps half of a pair, which YAML's reader is asked about
    found = quickly(text)
    assert found is not NONE
    slowly = list(yaml_source._documents(yaml_source.Parser(text).get_event, []))
    assert repr(found) == repr(slowly[0])


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}', '{"a": NaN}', "{a: 1}", "[1]", '{"a": "\x7f"}', '{"a": "\\ud800"}', '{\t"a": 1}', '{"a": 1} x',
        "{" + '"a": {' * 70 + "}" * 71,
    ],
)  # fmt: skip
def test_what_is_doubtful_is_left_to_yaml(text: str) -> None:
    assert quickly(text) is NONE


def test_a_wrong_value_in_json_still_has_its_place() -> None:
    text = '{"apiVersion": "mloc/v1",\n "spec": {"taskType": "echo", "data": ["a"],\n  "retry": {"max_attempts": "many"}}}'
    with pytest.raises(LanguageError) as raised:
        read_tasks(text)
    (problem,) = raised.value.problems
    assert (problem.line, problem.path) == (3, "spec.retry.max_attempts")
