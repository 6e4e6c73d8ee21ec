"""References are found, checked and replaced: by what earlier stages gave, and outside of prompts and rows by a worker's environment."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_files import VALID, task

from mloc.core.language.errors import LanguageError
from mloc.core.language.reading import read_tasks
from mloc.core.language.references import find_references, resolve
from mloc.core.language.resolution import has_references, resolve_encoded, resolve_spec
from mloc.core.language.spec import TaskSpec, decode_spec, encode_spec
from mloc.core.language.value_paths import PathError, look_up, parse_path

INPUTS: dict[str, Any] = {
    "train": {"task_id": "7.train", "result": {"path": "/w", "loss": [1.5, 0.25], "url": None, "n": 3, "deep": {"a key": "v"}, "ok": True}},
    "eval-1": {"result": {"items": [{"output": "A"}, {"output": "B"}]}},
}
ENV = {"TOKEN": "t0k"}


@pytest.mark.parametrize(("written", "meant"), [
    ("${train.result.path}", "/w"), ("${train.result.loss}", [1.5, 0.25]), ("${train.result.loss[1]}", 0.25), ("${ train.result.n }", 3),
    ("${train.result.ok}", True), ("${train.result.url}", None), ("${train.task_id}", "7.train"), ("${train.result.deep['a key']}", "v"),
    ("at ${train.result.path}/x, ${train.result.n}", "at /w/x, 3"), ("${train.result.loss} loss", "[1.5,0.25] loss"),
    ("${eval-1.result.items[1].output}", "B"),
    ("${eval-1.result.items[*].output}", ["A", "B"]), ("${env.TOKEN}", "t0k"), ("Bearer ${TOKEN}", "Bearer t0k"),
    ("$${train.result.path}", "${train.result.path}"), ("$${TOKEN}", "${TOKEN}"), ("plain $5 {x}", "plain $5 {x}"), (5, 5), (None, None),
    ("${secret.h.A}", "s3"), ("${", "${"),
])  # fmt: skip
def test_a_reference_becomes_what_it_stands_for(written: Any, meant: Any) -> None:
    assert resolve({"x": [written]}, INPUTS, ENV, {"h.A": "s3"}) == {"x": [meant]}


@pytest.mark.parametrize(("written", "parts"), [
    ("${train.result.pth}", ("spec.model.x", 'there is no "pth" below result', "deep, loss, n, ok, path, url")),
    ("${train.result.loss[2]}", ("there is no item 2", "the list has 2")),
    ("${train.result.path.more}", ('there is no "more"', '"/w"')),
    ("${tran.result.path}", ("names no stage", 'did you mean "train"?')),
    ("${env.HOME}", ("WORKER_ENV_ALLOW",)),
    ("${secret.gone}", ("submit the task again",)),
    ("${a.b}", ("is no reference",)),
    ("x ${train.result.url}", ("is null",)),
])  # fmt: skip
def test_what_is_missing_is_said_with_the_place_and_what_there_is(written: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(LanguageError) as caught:
        resolve({"model": {"x": written}}, INPUTS, ENV)
    for part in parts:
        assert part in str(caught.value)


def test_all_that_is_missing_is_said_at_once() -> None:
    with pytest.raises(LanguageError) as caught:
        resolve({"a": "${train.result.x}", "b": ["${y.result}", "${env.Z}"]}, INPUTS, ENV)
    assert [problem.path for problem in caught.value.problems] == ["spec.a", "spec.b[0]", "spec.b[1]"]


def test_a_missing_alternative_is_left_out_while_another_is_there() -> None:
    source = {"path": "${train.result.nowhere}", "url": "${train.result.url}", "taskId": "${train.task_id}", "x": 1}
    assert resolve(source, INPUTS, {}) == {"taskId": "7.train", "x": 1}


def test_it_fails_when_no_alternative_is_there() -> None:
    with pytest.raises(LanguageError) as caught:
        resolve({"load": {"path": "${train.result.nowhere}", "url": "${train.result.url}"}}, INPUTS, {})
    assert [problem.path for problem in caught.value.problems] == ["spec.load.path", "spec.load.url"]
    assert "one of path, url must be there" in caught.value.problems[0].hint


def test_a_workers_environment_never_gets_into_prompts_and_rows() -> None:
    spec = {
        "data": {"items": ["${TOKEN} ${env.TOKEN} ${train.result.n}", {"prompt": "$${TOKEN}"}], "headers": {"A": "${TOKEN}"}},
        "inference": {"system_prompt": "${TOKEN}"},
        "agent": {"task": "${env.TOKEN}"},
    }
    assert resolve(spec, INPUTS, ENV, {"TOKEN": "x"}) == {
        "data": {"items": ["${TOKEN} ${env.TOKEN} 3", {"prompt": "$${TOKEN}"}], "headers": {"A": "t0k"}},
        "inference": {"system_prompt": "${TOKEN}"},
        "agent": {"task": "${env.TOKEN}"},
    }


def test_references_are_listed_with_their_places() -> None:
    malformed: list[Any] = []
    spec = {"model": {"a": "${x.result.b} ${env.C} ${?}"}, "data": {"items": ["${y.result} ${D} ${?} $${z.result}"]}}

    found = [(one.reference.kind, one.reference.name, one.path) for one in find_references(spec, malformed)]

    assert found == [("stage", "x", ("model", "a")), ("env", "C", ("model", "a")), ("stage", "y", ("data", "items", 0))]
    assert [path for path, _ in malformed] == [("model", "a")]


def _stage() -> TaskSpec:
    return read_tasks(task(VALID["a reference in the place of a number"])).documents[0].tasks[2].spec


def test_a_deferred_number_is_put_back_when_it_is_there() -> None:
    resolved = resolve_spec(_stage(), {"a": {"result": {"n": 5, "s": "7"}}}, {})
    assert (resolved.inference.max_tokens, resolved.training, resolved.deferred) == (5, {"seed": "7"}, ())


def test_a_number_that_came_as_text_is_still_one() -> None:
    encoded = encode_spec(_stage())
    assert has_references(encoded)
    assert decode_spec(resolve_encoded(encoded, {"a": {"result": {"n": "5", "s": 1}}}, {})).inference.max_tokens == 5


def test_a_result_of_a_wrong_type_is_said() -> None:
    with pytest.raises(LanguageError, match=r"spec.inference.max_tokens: has the wrong value.*a whole number.*a reference gave this value"):
        resolve_spec(_stage(), {"a": {"result": {"n": [1], "s": 1}}}, {})


def test_a_spec_without_references_goes_on_as_it_is() -> None:
    encoded = encode_spec(TaskSpec("echo"))
    assert resolve_encoded(encoded, {}, {}) is encoded


@pytest.mark.parametrize("text", ["", ".", "a.", "a..b", "a[", "a[x]", "a[-1]", "a b", "a[0]b", ".a", "a" + ".a" * 40])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(PathError):
        parse_path(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(json_values)
def test_a_value_without_references_is_left_as_it_is(value: Any) -> None:
    plain = resolve(value, {}, {})
    assert plain == value or "${" in str(value)


@given(json_values, st.lists(st.sampled_from(["a", "b", 0, 1, "*"]), max_size=4))
def test_looking_up_gives_a_value_or_says_that_it_is_missing(value: Any, steps: list[str | int]) -> None:
    with suppress(PathError):
        look_up(value, steps)
