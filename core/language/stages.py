"""The stages of a pipeline as its file states them, each with its own part of the spec in the Structs' names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from mloc.core.language.conformance import Conformance
from mloc.core.language.errors import Path, did_you_mean, shown
from mloc.core.language.findings import Findings
from mloc.core.language.plan import MAX_TASKS
from mloc.core.language.references import RESERVED_NAMES
from mloc.core.language.shorthands import Rewritten, rewrite
from mloc.core.language.spec import Stage
from mloc.core.language.task_reading import partial_spec

_STAGE_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")

Report = Callable[[Findings, Callable[[Path], Path]], None]
"""Takes findings and how their paths are written in the document."""


class StatedStage(NamedTuple):
    """One stage as the file states it."""

    name: str
    place: Path
    depends_on: tuple[str, ...] | None
    rewritten: Rewritten
    own: dict[str, Any]
    is_whole: bool
    """Whether its own spec can be read on: stages inside of it cannot."""
    is_repeated: bool = False
    """Whether a stage before has its name, which was reported."""


class Surroundings(NamedTuple):
    """What reading a document needs to know: its kind and name, plug-in types, whether a path is in the text, where findings go."""

    kind: str
    name: str
    plugin_types: frozenset[str]
    has_references: bool
    writes: Callable[[Path], bool]
    report: Report


def stated_stages(spec: dict[str, Any], around: Surroundings) -> list[StatedStage]:
    """The stages as the file states them; empty when they cannot be told."""
    if "stages" in spec and "graph" in spec:
        say(around, ("spec", "graph"), "stages and graph cannot be used together", hint="keep one of them", at_key=True)
        return []
    place: Path = ("spec", "stages")
    stages = spec.get("stages")
    if "graph" in spec:
        place, graph = ("spec", "graph", "nodes"), spec["graph"]
        unknown = [name for name in graph if name != "nodes"] if isinstance(graph, dict) else []
        for name in unknown:
            hint = did_you_mean(name, ["nodes"])
            say(around, ("spec", "graph", name), f"the key {shown(name)} is not known in graph", accepted="nodes", hint=hint, at_key=True)
        stages = graph.get("nodes") if isinstance(graph, dict) else graph
        if stages is None and unknown:
            return []
    if not isinstance(stages, list) or not stages:
        say(around, place, "holds no stages", found=shown(stages), accepted="a list of {name, dependsOn, spec}")
        return []
    if len(stages) >= MAX_TASKS:
        say(around, place, "holds too many stages", found=str(len(stages)), accepted=f"at most {MAX_TASKS - 1}")
        return []
    parts = [_stated(stage, (*place, at), around) for at, stage in enumerate(stages)]
    told: list[StatedStage] = []
    names: set[str] = set()
    for part in parts:
        if part is None:
            continue
        told.append(part._replace(is_repeated=part.name in names))
        names.add(part.name)
        if told[-1].is_repeated:
            say(around, (*part.place, "name"), f"the name {shown(part.name)} is used by two stages", hint="give each stage a name of its own")
    return told if None not in parts else []


def _stated(stage: Any, place: Path, around: Surroundings) -> StatedStage | None:
    findings = Findings()
    rewritten = Rewritten({})
    try:
        checked = Conformance(findings).check(stage, Stage, at_intake=True)
        if isinstance(checked, dict) and "name" in checked:
            _check_name(checked["name"], findings)
    finally:
        around.report(findings, lambda path: (*place, *path))
    if findings.problems:
        return None
    inner = Findings()
    try:
        own = checked.get("spec", {})
        is_whole = "stages" not in own and "graph" not in own
        for name in ("stages", "graph"):
            if name in own:
                inner.wrong((name,), "stages cannot hold stages", hint="list all stages at one level, with dependsOn", at_key=True)
                own = {key: value for key, value in own.items() if key != name}
        rewritten = rewrite(own, inner)
        own = partial_spec(rewritten, inner)
    finally:
        around.report(inner, lambda path: (*place, "spec", *rewritten.written(path)))
    depends_on = checked.get("dependsOn")
    return StatedStage(checked["name"], place, None if depends_on is None else tuple(depends_on), rewritten, own, is_whole)


def _check_name(name: str, findings: Findings) -> None:
    if not _STAGE_NAME.fullmatch(name):
        findings.wrong(("name",), "is no stage name", found=shown(name), accepted="letters, digits, - and _, at most 63")
    elif name in RESERVED_NAMES:
        findings.wrong(("name",), "cannot be used as a stage's name", found=shown(name), hint="references to other things start with it")


def say(
    around: Surroundings, path: Path, message: str, *, found: str = "", accepted: str = "", hint: str = "", at_key: bool = False
) -> None:
    findings = Findings()
    findings.wrong(path, message, found=found, accepted=accepted, hint=hint, at_key=at_key)
    around.report(findings, lambda path: path)
