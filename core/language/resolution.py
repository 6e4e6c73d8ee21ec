"""A spec's references replaced by what they stand for, when the task is due: what reaches an executor holds none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mloc.core.language.conformance import Conformance
from mloc.core.language.errors import LanguageError, Problem, dotted
from mloc.core.language.findings import Findings, TooMany
from mloc.core.language.references import resolve
from mloc.core.language.spec import TaskSpec, decode_spec, encode_spec


def has_references(encoded: bytes) -> bool:
    """Whether an encoded spec may hold references: without, it goes to the executor as it is."""
    return b"${" in encoded


def resolve_encoded(
    encoded: bytes, inputs: Mapping[str, Any], env: Mapping[str, str], secrets: Mapping[str, str] | None = None
) -> bytes:
    """The encoded spec without references. Raises LanguageError when a value is missing or of a wrong type."""
    if not has_references(encoded):
        return encoded
    return encode_spec(resolve_spec(decode_spec(encoded), inputs, env, secrets))


def resolve_spec(
    spec: TaskSpec, inputs: Mapping[str, Any], env: Mapping[str, str], secrets: Mapping[str, str] | None = None
) -> TaskSpec:
    """The spec without references. Raises LanguageError when a value is missing or of a wrong type.

    `inputs`: stage name → {"result": …, "task_id": …}; `env`: the allowed names and their values; `secrets`: name → text."""
    resolved = resolve(msgspec.to_builtins(spec), inputs, env, secrets)
    try:
        return msgspec.convert(resolved, TaskSpec)
    except msgspec.ValidationError:
        return _converted(resolved)


def _converted(resolved: dict[str, Any]) -> TaskSpec:
    """What a result gave may be written otherwise than the Structs have it (a number as text), or be of a wrong type."""
    findings = Findings()
    try:
        checked = Conformance(findings).check(resolved, TaskSpec)
        if not findings.problems:
            return msgspec.convert(checked, TaskSpec)
    except TooMany:
        pass  # those that were found are said below
    except msgspec.ValidationError as error:
        raise LanguageError([Problem(f"the resolved spec is not right: {error}", path="spec")]) from None
    raise LanguageError([
        msgspec.structs.replace(finding.problem, path=dotted(("spec", *finding.path)), hint=finding.problem.hint or "a reference gave this value")
        for finding in findings.problems
    ])  # fmt: skip

