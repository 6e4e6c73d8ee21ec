"""One plain spec into a TaskSpec: quickly when it is written in present names, else by the walk that rewrites and explains."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from mloc.core.language.conformance import ABSENT, Conformance
from mloc.core.language.errors import Path
from mloc.core.language.findings import Findings, TooMany
from mloc.core.language.meaning import check_meaning, with_effective_type
from mloc.core.language.passthrough import needs_no_change
from mloc.core.language.quantities import QuantityError, cores, size_bytes
from mloc.core.language.shorthands import Rewritten
from mloc.core.language.spec import Deferred, TaskSpec

_SECTIONS = ("training", "generation", "agent")
_SAY_WHAT_TO_DO = frozenset(("taskType", "data", "agent", "eval"))
_MODEL_SECTIONS = ("vllm", "transformers", "config")


def partial_spec(rewritten: Rewritten, findings: Findings) -> dict[str, Any]:
    """A part of a spec in the Structs' names, to be merged. Raises TooMany."""
    conformance = Conformance(findings, partial=True)
    checked = conformance.check(rewritten.spec, TaskSpec)
    rewritten.rename(conformance.renamed)
    return checked if isinstance(checked, dict) else {}


def task_spec(
    rewritten: Rewritten, findings: Findings, plugin_types: frozenset[str] = frozenset(), has_references: bool = True
) -> TaskSpec | None:
    """The whole spec, or None when findings say what is wrong with it. Raises TooMany.

    `has_references` False spares the walk that looks for references in the place of numbers and switches."""
    read = None if has_references else _quickly(rewritten.spec)
    if read is None:
        read = _thoroughly(rewritten, findings, plugin_types)
    if read is None:
        return None
    read = with_effective_type(read)
    check_meaning(read, findings, plugin_types)
    return read


def _quickly(spec: dict[str, Any]) -> TaskSpec | None:
    """What msgspec makes of a spec that needs no rewriting; None sends it to the walk."""
    if "deferred" in spec:
        return None
    for name in _SECTIONS:
        section = spec.get(name)
        if section is not None and not (isinstance(section, dict) and needs_no_change(name, section)):
            return None
    model = spec.get("model")
    if isinstance(model, dict):
        for name in _MODEL_SECTIONS:
            section = model.get(name)
            if section is not None and not (isinstance(section, dict) and needs_no_change(name, section)):
                return None
    try:
        return msgspec.convert(_with_plain_quantities(spec), TaskSpec)
    except (msgspec.ValidationError, QuantityError):
        return None


def _with_plain_quantities(spec: dict[str, Any]) -> dict[str, Any]:
    resources = spec.get("resources")
    if not isinstance(resources, dict) or not isinstance(hardware := resources.get("hardware"), dict):
        return spec
    plain = dict(hardware)
    if isinstance(plain.get("cpu"), str):
        plain["cpu"] = cores(plain["cpu"])
    if isinstance(plain.get("memory"), str):
        plain["memory"] = size_bytes(plain["memory"])
    gpu = plain.get("gpu")
    if isinstance(gpu, dict) and isinstance(gpu.get("memory"), str):
        plain["gpu"] = {**gpu, "memory": size_bytes(gpu["memory"])}
    return {**spec, "resources": {**resources, "hardware": plain}}


def _thoroughly(rewritten: Rewritten, findings: Findings, plugin_types: frozenset[str] = frozenset()) -> TaskSpec | None:
    before = len(findings.problems)
    conformance = Conformance(findings)
    checked = conformance.check(rewritten.spec, TaskSpec)
    deferred = tuple(Deferred(path, reference) for path, reference in conformance.deferred)
    if checked is ABSENT or len(findings.problems) > before:
        _look_further(checked, deferred, conformance, rewritten, findings, plugin_types)
        return None
    try:
        read = msgspec.convert(checked, TaskSpec)
    except msgspec.ValidationError as error:  # the walk knows every type of the Structs; this is what it would have missed
        message, _, place = str(error).partition(" - at `$.")
        findings.wrong(_path_of(place), message)
        return None
    rewritten.rename(conformance.renamed)
    return msgspec.structs.replace(read, deferred=deferred) if deferred else read


def _look_further(
    checked: Any, deferred: tuple[Deferred, ...], conformance: Conformance, rewritten: Rewritten, findings: Findings, plugin_types: frozenset[str]
) -> None:
    """Say also what is wrong in the parts that have the right shape, so that a person need not come twice. Raises TooMany.

    What may only follow from a problem that was noted (it stands around it, or something with a mistyped key is missing) is not said."""
    try:
        read = with_effective_type(msgspec.structs.replace(msgspec.convert(checked, TaskSpec), deferred=deferred))
    except msgspec.ValidationError:
        return
    wrong = [conformance.own_path(finding.path) for finding in findings.problems]
    further = Findings()
    with contextlib.suppress(TooMany):
        check_meaning(read, further, plugin_types)
    rewritten.rename(conformance.renamed)
    for path, at_key, problem in further.problems:
        if not any(_may_follow(path, noted) for noted in wrong):
            findings.wrong(path, problem.message, found=problem.found, accepted=problem.accepted, hint=problem.hint, at_key=at_key)


def _may_follow(path: Path, noted: Path) -> bool:
    if not path:  # something is missing in the task as a whole
        return len(noted) == 1 or noted[0] in _SAY_WHAT_TO_DO
    return path[: len(noted)] == noted or noted[: len(path)] == path


def _path_of(place: str) -> Path:
    return tuple(step for step in place.rstrip("`").replace("[...]", "").split(".") if step)
