"""Whatever text comes, it is read or refused with LanguageError, never anything else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from task_files import HEAD, VALID, task

from mloc.core.language.errors import LanguageError
from mloc.core.language.reading import read_tasks
from mloc.core.language.resolution import resolve_spec
from mloc.core.language.secrets import masked, move_secrets
from mloc.core.language.spec import decode_spec, encode_spec

FILES = [task(spec) for spec in VALID.values()]
KEYS = sorted({word.strip(" {[-'\"") for text in FILES for line in text.splitlines() for word in line.split(":")[:-1] if len(word) < 30} - {""})
PIECES = ["${a.result.x}", "${env.X}", "*a", "&a ", "<<: ", "null", "[]", "{}", "- ", ": ", "\n", "\t", "!!str ", "'", '"', "5", "|\n"]
PIECES += ["é", "\u2028", "---\n", "%"]


def read(text: str | bytes) -> None:
    try:
        result = read_tasks(text, "f.yaml")
    except LanguageError as error:
        refused(error)
        return
    for plan in result.documents:
        for planned in plan.tasks:
            assert decode_spec(encode_spec(planned.spec)) == planned.spec
            masked(move_secrets(planned.spec)[0])
            with suppress(LanguageError):
                resolve_spec(planned.spec, {}, {})


def refused(error: LanguageError) -> None:
    assert error.problems
    assert all(str(problem) and msgspec.json.encode(problem) for problem in error.problems)


damage = st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from([*PIECES, *KEYS, ""]))


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text(text: str | bytes) -> None:
    read(text)


@settings(max_examples=300)
@given(st.sampled_from(FILES), st.lists(damage, min_size=1, max_size=4))
def test_a_damaged_task_file(text: str, damages: list[tuple[float, int, str]]) -> None:
    for where, removed, inserted in damages:
        at = int(where * len(text))
        text = text[:at] + inserted + text[at + removed :]
    read(text)


scalars = st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.sampled_from(PIECES) | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4), max_leaves=15
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=6))
def test_known_keys_with_any_values(spec: dict[str, Any]) -> None:
    def written(value: Any) -> Any:
        return str(value) if isinstance(value, int) and abs(value) > 1 << 62 else value

    plain = {name: written(value) for name, value in spec.items()}
    try:
        text = msgspec.json.encode({"apiVersion": "mloc/v1", "spec": {"taskType": "echo", **plain}})
    except (msgspec.MsgspecError, OverflowError):
        return
    read(text)


@given(st.text(max_size=40), st.text(max_size=20))
def test_any_override(path: str, value: str) -> None:
    try:
        read_tasks(HEAD + "  taskType: echo\n", overrides={path: value, f"spec.{path}": value})
    except LanguageError as error:
        refused(error)
