"""Checks the sections whose names belong to a library: aliases become the library's present names, known names are typed, the rest warns."""

from __future__ import annotations

from typing import Any

from mloc.core.language.errors import Path, did_you_mean, shown
from mloc.core.language.findings import Findings
from mloc.core.language.passthrough_bounds import out_of_bounds
from mloc.core.language.passthrough_names import SECTIONS, Kind, SectionNames
from mloc.core.language.references import is_reference
from mloc.core.language.yaml_scalars import number, switch

_EXACT: dict[Kind, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "text": (str,)}
_ACCEPTED: dict[Kind, str] = {"int": "a whole number", "float": "a number", "bool": "true or false", "text": "text"}


def needs_no_change(section: str, settings: dict[str, Any]) -> bool:
    """Whether every name is known and every value has its type and keeps its bounds already, so that there is nothing to rewrite or to warn about."""
    kinds = SECTIONS[section].kinds
    for name, value in settings.items():
        kind = kinds.get(name)
        if kind is None or (kind != "any" and type(value) not in _EXACT[kind]) or out_of_bounds(section, name, value):
            return False
    return True


def check_settings(section: str, settings: dict[str, Any], path: Path, findings: Findings) -> dict[str, Any]:
    """The settings under their present names. Problems and warnings go to `findings`, with the names that the file uses."""
    names = SECTIONS[section]
    checked: dict[str, Any] = {}
    for written, value in settings.items():
        name = names.aliases.get(written, written) if written not in names.kinds else written
        place = (*path, written)
        if name != written and name in settings:
            findings.warn(place, f"{shown(written)} is ignored, because {shown(name)}, its present name, is there too")
        elif written in names.dead:
            findings.warn(place, f"{shown(written)} has no effect: no library takes it any more", hint="remove it")
        elif name in checked:
            findings.warn(place, f"{shown(written)} is ignored, because another name of {shown(name)} is there too")
        else:
            checked[name] = _typed(names, section, name, value, place, findings)
    return checked


def _typed(names: SectionNames, section: str, name: str, value: Any, place: Path, findings: Findings) -> Any:
    kind = names.kinds.get(name)
    if kind is None:
        hint = did_you_mean(name, [*names.kinds, *names.aliases])
        findings.warn(place, f"{shown(name)} is not known here; the worker will check it against the library", hint=hint)
        return value
    if kind == "any" or value is None or is_reference(value):
        return value
    taken = value if type(value) in _EXACT[kind] else _coerced(kind, value)
    if taken is None:
        findings.wrong(place, "has the wrong type", found=shown(value), accepted=_ACCEPTED[kind])
    elif bounds := out_of_bounds(section, name, taken):
        findings.wrong(place, "is out of bounds", found=shown(value), accepted=f"{_ACCEPTED[kind]} {bounds}")
    return taken


def _coerced(kind: Kind, value: Any) -> Any:
    """The value as a number or switch where a text or a whole float stands for one, else None."""
    if kind == "bool":
        return switch(value) if isinstance(value, str) else None
    real = number(value) if isinstance(value, str) else value if isinstance(value, float) else None
    if kind == "float":
        return real
    return int(real) if kind == "int" and real is not None and float(real).is_integer() else None
