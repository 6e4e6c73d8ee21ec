"""JSON Schemas that answers must follow: what no schema can hold is told at intake, the rest the worker's library knows better."""

from __future__ import annotations

from typing import Any

from mloc.core.language.errors import Path, did_you_mean, shown
from mloc.core.language.findings import Findings

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


def check_schema(schema: Any, place: Path, findings: Findings, *, as_text: bool = False) -> None:
    """Note types that there are not, and schemas that are none. `as_text`: it was written as text, so that `place` is all there is to show."""

    def inner(value: Any, *steps: str | int) -> None:
        check_schema(value, place if as_text else (*place, *steps), findings, as_text=as_text)

    if isinstance(schema, bool) or (isinstance(schema, str) and "${" in schema):
        return
    if not isinstance(schema, dict):
        findings.wrong(place, "is no schema", found=shown(schema), accepted="a mapping such as {type: string}, or true or false")
        return
    _check_type(schema.get("type"), place if as_text else (*place, "type"), findings)
    for key in _BY_NAME:
        named = schema.get(key)
        if isinstance(named, dict):
            for name, value in named.items():
                inner(value, key, name)
        elif named is not None:
            found = place if as_text else (*place, key)
            findings.wrong(found, f"{key} of a schema has the wrong type", found=shown(named), accepted="a mapping of names to schemas")
    for key in _LISTS:
        for at, value in enumerate(several if isinstance(several := schema.get(key), list | tuple) else ()):
            inner(value, key, at)
    for key in _SINGLE:
        value = schema.get(key)
        if value is not None and not (key == "items" and isinstance(value, list | tuple)):
            inner(value, key)


def _check_type(stated: Any, place: Path, findings: Findings) -> None:
    for one in stated if isinstance(stated, list | tuple) else () if stated is None else (stated,):
        if one not in TYPES and not (isinstance(one, str) and "${" in one):
            hint = did_you_mean(one, TYPES) if isinstance(one, str) else ""
            findings.wrong(place, "is no type of a JSON schema", found=shown(one), accepted=", ".join(TYPES), hint=hint)
