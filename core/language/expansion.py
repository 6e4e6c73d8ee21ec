"""A document into its tasks: a pipeline's stages merged over what they share, put into an order in which they can run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from mloc.core.language.conformance import Conformance
from mloc.core.language.data_spec import GraphTemplateData
from mloc.core.language.errors import Path, did_you_mean, shown
from mloc.core.language.expressions import stage_named
from mloc.core.language.findings import Findings
from mloc.core.language.graph_template import nodes_of
from mloc.core.language.plan import PlannedTask
from mloc.core.language.references import find_references
from mloc.core.language.shorthands import Rewritten, rewrite
from mloc.core.language.spec import TaskSpec
from mloc.core.language.stage_sources import hint_for_stage, with_stage_sources
from mloc.core.language.stages import StatedStage, Surroundings, say, stated_stages
from mloc.core.language.task_reading import partial_spec, task_spec

MAX_MERGED_BYTES = 16 << 20
"""Of all stages of a file together, what they share written out for each."""

_NOT_INHERITED = frozenset(("dependsOn", "notify"))
_OF_THE_PARENT = frozenset(("slo", "output", "ttl_sec", "notify"))


class Settled(NamedTuple):
    """A stage merged and read, with the siblings and the tasks submitted before that it waits for."""

    part: StatedStage
    spec: TaskSpec
    siblings: tuple[str, ...]
    external: tuple[str, ...]


def expand(spec: dict[str, Any], around: Surroundings) -> tuple[PlannedTask, ...]:
    """The tasks of a document, parents first. Empty when findings were reported that leave nothing to plan. Raises TooMany."""
    if "stages" in spec or "graph" in spec:
        return _pipeline(spec, around)
    findings = Findings()
    rewritten = rewrite(spec, findings)
    try:
        read = task_spec(rewritten, findings, around.plugin_types, around.has_references)
        external = read.depends_on if read is not None else ()
        if read is not None:
            read = with_stage_sources(read, external, findings)
            if around.has_references or isinstance(read.data, GraphTemplateData):
                _needs(read, external, findings)
    finally:
        around.report(findings, lambda path: ("spec", *rewritten.written(path)))
    if read is None:
        return ()
    return (PlannedTask("", around.name, "task", around.kind, read.task_type, read, external=external),)


def merge(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A stage's own spec over the shared one: mappings are merged, the stage's values win, lists are replaced, null takes away.

    A section that the stage gives another `type` is the stage's alone."""
    merged = dict(shared)
    for name, value in own.items():
        inherited = merged.get(name)
        if isinstance(value, dict) and isinstance(inherited, dict) and not _another_type(value, inherited):
            merged[name] = merge(inherited, value)
        else:
            merged[name] = value
    return merged


def _another_type(own: dict[str, Any], inherited: dict[str, Any]) -> bool:
    return "type" in own and "type" in inherited and own["type"] != inherited["type"]


def _pipeline(spec: dict[str, Any], around: Surroundings) -> tuple[PlannedTask, ...]:
    shared = {name: value for name, value in spec.items() if name not in ("stages", "graph")}
    findings = Findings()
    rewritten = rewrite(shared, findings)
    try:
        base = partial_spec(rewritten, findings)
    finally:
        around.report(findings, lambda path: ("spec", *rewritten.written(path)))
    parts = stated_stages(spec, around)
    if not parts:
        return ()
    names = tuple(dict.fromkeys(part.name for part in parts))
    settled: list[Settled] = []
    budget = MAX_MERGED_BYTES
    for at, part in enumerate(parts):
        if not part.is_whole:
            continue
        before = (parts[at - 1].name,) if "stages" in spec and at else ()
        one, size = _settle(base, rewritten, part, before, names, around)
        budget -= size
        if budget < 0:
            say(around, part.place, "the stages are too large together", accepted=f"at most {MAX_MERGED_BYTES:,} bytes",
                 hint="put the data into a jsonl file and name it under data.jsonl")  # fmt: skip
            return ()
        if one is not None:
            settled.append(one)
    order = _in_order([one for one in settled if not one.part.is_repeated], names, around)
    if len(order) < len(parts):
        return ()
    parent = _parent(base, rewritten, order, around) if order else None
    return (parent, *_planned(order, around)) if parent is not None else ()


def _settle(
    base: dict[str, Any], base_rewritten: Rewritten, part: StatedStage, before: tuple[str, ...], names: tuple[str, ...], around: Surroundings
) -> tuple[Settled | None, int]:
    """A stage merged over what all share, and its size in bytes."""
    inherited = {name: value for name, value in base.items() if name not in _NOT_INHERITED}
    outside = tuple(base.get("dependsOn") or ())
    merged = merge(_apart(inherited, part), part.own)

    def written(path: Path) -> Path:
        own = (*part.place, "spec", *part.rewritten.written(path))
        if not path:
            return part.place
        shared = ("spec", *base_rewritten.written(path))
        return own if around.writes(own) or not around.writes(shared) else shared

    findings = Findings()
    try:
        read = task_spec(Rewritten(merged), findings, around.plugin_types)
        if read is None:
            return None, 0
        earlier = (*read.depends_on, *outside)
        read = with_stage_sources(read, (*names, *earlier), findings)
        siblings = tuple(name for name in _siblings(part, before, names, around) if name in names)
        needed = _needs(read, (*names, *earlier), findings, "" if part.is_repeated else part.name)
        siblings += tuple(name for name in needed if name in names and name not in siblings)
    finally:
        around.report(findings, written)
    external = (*read.depends_on, *(name for name in outside if name in needed or not siblings))
    return Settled(part, read, siblings, tuple(dict.fromkeys(external))), len(msgspec.json.encode(read))


def _apart(inherited: dict[str, Any], part: StatedStage) -> dict[str, Any]:
    """What a stage inherits, with a folder of its own below the destination that all share."""
    output = inherited.get("output")
    destination = output.get("destination") if isinstance(output, dict) else None
    if not isinstance(output, dict) or not isinstance(destination, dict) or not isinstance(destination.get("path"), str):
        return inherited
    return {**inherited, "output": {**output, "destination": {**destination, "path": f"{destination['path'].rstrip('/')}/{part.name}"}}}


def _siblings(part: StatedStage, before: tuple[str, ...], names: tuple[str, ...], around: Surroundings) -> tuple[str, ...]:
    if part.depends_on is None:
        return before
    for at, name in enumerate(part.depends_on):
        if name not in names:
            hint = did_you_mean(name, names) or "a task submitted before belongs to the stage's spec.dependsOn"
            say(around, (*part.place, "dependsOn", at), f"names no stage of this file: {shown(name)}", accepted=", ".join(names), hint=hint)
    return tuple(dict.fromkeys(part.depends_on))


def _needs(spec: TaskSpec, names: Sequence[str], findings: Findings, own_name: str = "") -> tuple[str, ...]:
    """The stages that a spec's references and template name; those that are none of `names` are noted."""
    malformed: list[tuple[Path, str]] = []
    plain = msgspec.to_builtins(spec)
    plain.pop("deferred", None)
    places: list[tuple[Path, str]] = []
    as_text: list[tuple[Path, str]] = []
    for found in find_references(plain, malformed, as_text=as_text):
        if found.reference.kind == "secret":
            findings.wrong(found.path, "secret.… is what literal secrets become; it cannot be written", hint="write ${env.NAME}")
        elif found.reference.kind == "stage":
            places.append((found.path, found.reference.name))
    for deferred in spec.deferred:
        places += [(deferred.path, one.reference.name) for one in find_references(deferred.reference, malformed) if one.reference.kind == "stage"]
    if isinstance(spec.data, GraphTemplateData):
        nodes = nodes_of(spec.data.template)
        places += [(("data", "template", "columns", at), stage_named(name, names) or name) for at, name in nodes]
    for path, message in malformed:
        findings.wrong(path, message)
    for path, inside in as_text:
        if (name := inside.replace("[", ".").partition(".")[0].strip()) in names:
            hint = f"write ${{{name}.result.…}}, ${{{name}.task_id}} or ${{{name}.folder}} for what the stage gave"
            findings.warn(path, f"{shown('${' + inside + '}')} is no reference, and stays as it is written", hint=hint, at_key=False)
    for path, name in places:
        if name == own_name:
            findings.wrong(path, f"the stage {shown(name)} refers to its own result")
        elif name not in names:
            findings.wrong(path, f"refers to an unknown stage {shown(name)}", hint=hint_for_stage(name, names))
    return tuple(dict.fromkeys(name for _, name in places if name != own_name))


def _in_order(settled: list[Settled], names: Sequence[str], around: Surroundings) -> list[Settled]:
    """Stages so that each comes after those it waits for, else in the order of the file; without those that wait for each other.

    What could not be settled holds nothing up."""
    waiting = {one.part.name: one for one in settled}
    order: list[Settled] = []
    done = set(names).difference(waiting)
    while waiting:
        ready = [one for one in waiting.values() if done.issuperset(one.siblings)]
        if ready:
            order += ready
        else:
            circle = _circle(waiting)
            say(around, waiting[circle[0]].part.place, "the stages wait for each other: " + " → ".join(circle), hint="an arrow means: waits for")
            ready = [waiting[name] for name in circle[1:]]
        for one in ready:
            done.add(one.part.name)
            del waiting[one.part.name]
    return order


def _circle(waiting: dict[str, Settled]) -> list[str]:
    name = next(iter(waiting))
    walked: list[str] = []
    while name not in walked:
        walked.append(name)
        name = next(sibling for sibling in waiting[name].siblings if sibling in waiting)
    return [*walked[walked.index(name) :], name]


def _planned(order: list[Settled], around: Surroundings) -> list[PlannedTask]:
    return [
        PlannedTask(one.part.name, one.part.name, "stage", around.kind, one.spec.task_type, one.spec, depends_on=one.siblings, external=one.external)
        for one in order
    ]


def _parent(base: dict[str, Any], base_rewritten: Rewritten, order: list[Settled], around: Surroundings) -> PlannedTask | None:
    """The pipeline itself; None when what it states for itself is not whole, which is reported."""
    kept = {name: value for name, value in base.items() if name in _OF_THE_PARENT and value is not None}
    findings = Findings()
    try:
        checked = Conformance(findings).check({**kept, "taskType": ""}, TaskSpec)
    finally:
        around.report(findings, lambda path: ("spec", *base_rewritten.written(path)))
    if findings.problems:
        return None
    children = tuple(one.part.name for one in order)
    spec = msgspec.convert(checked, TaskSpec)
    return PlannedTask("", around.name, "pipeline", around.kind, "", spec, external=tuple(base.get("dependsOn") or ()), children=children)
