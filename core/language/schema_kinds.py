"""The JSON Schema of the Structs' types: what a file may write for each, references and texts that stand for numbers included."""

from __future__ import annotations

from typing import Any

from msgspec import inspect

from mloc.core.language.passthrough_bounds import BOUNDS, Bounds
from mloc.core.language.passthrough_names import SECTIONS, Kind, SectionNames
from mloc.core.language.references import WHOLE_REFERENCE
from mloc.core.language.struct_rules import FieldRules, names_of, rules_of
from mloc.core.language.yaml_scalars import SWITCHES

Schema = dict[str, Any]

_NUMBER = r"\s*([-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9_]+)?|0x[0-9a-fA-F_]+|0o[0-7_]+)\s*"
_SWITCH = "|".join("".join(f"[{letter.upper()}{letter}]" for letter in word) for word in SWITCHES)
_AMOUNT = r"\s*[0-9]{1,18}(\.[0-9]{1,9})?\s*"
_UNIT = r"(B|b|[KkMGgTtPp]([Ii]?[Bb]?)|m[Ii][Bb]?)?"
_QUANTITIES: dict[str, Schema] = {
    "cores": {"type": ["number", "string"], "exclusiveMinimum": 0, "maximum": 1_000_000, "pattern": f"^{_AMOUNT}m?\\s*$"},
    "bytes": {"type": ["number", "string"], "minimum": 0, "maximum": 1 << 60, "pattern": rf"^{_AMOUNT}{_UNIT}\s*$"},
}
_NULL: Schema = {"type": "null"}

DEFINITIONS: dict[str, Schema] = {
    "Reference": {
        "type": "string", "pattern": f"^{WHOLE_REFERENCE}$",
        "description": "What an earlier stage gave, ${stage.result.path}, or a worker's variable, ${env.NAME}.",
    },
    "IntSetting": {"type": ["integer", "string", "null"], "pattern": f"^({_NUMBER}|{WHOLE_REFERENCE})$"},
    "FloatSetting": {"type": ["number", "string", "null"], "pattern": f"^({_NUMBER}|{WHOLE_REFERENCE})$"},
    "BoolSetting": {"type": ["boolean", "string", "null"], "pattern": f"^({_SWITCH}|{WHOLE_REFERENCE})$"},
    "TextSetting": {"type": ["string", "null"]},
}  # fmt: skip
_SETTING: dict[Kind, str] = {"int": "IntSetting", "float": "FloatSetting", "bool": "BoolSetting", "text": "TextSetting"}


def ref(name: str, *steps: str) -> Schema:
    """A pointer to a definition, or to one of its properties."""
    return {"$ref": "/".join((f"#/$defs/{name}", *(part for step in steps for part in ("properties", step))))}


def any_of(*options: Schema) -> Schema:
    """One of several; options that are such a choice themselves are laid open."""
    laid_open = [inner for option in options for inner in (option["anyOf"] if option.keys() == {"anyOf"} else [option])]
    return laid_open[0] if len(laid_open) == 1 else {"anyOf": laid_open}


def same_as(name: str, pointer: Schema) -> Schema:
    """A further name for what `pointer` describes; editors accept it and do not offer it (allOf: they lose what stands beside a $ref)."""
    return {"allOf": [pointer], "description": f"The same as `{name}`.", "doNotSuggest": True}


class Kinds:
    """Describes types, and collects in `definitions` the Structs that they hold."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = dict(DEFINITIONS)

    def struct(self, kind: inspect.StructType, at_intake: bool = False) -> Schema:
        """A pointer to the definition of a Struct. With `at_intake` its fields take no references."""
        name = kind.cls.__name__
        if name not in self.definitions:
            self.definitions[name] = {}
            self.definitions[name] |= self._mapping(kind, name, at_intake)
        return ref(name)

    def settings(self, section: str) -> Schema:
        """A pointer to the definition of a pass-through section."""
        name = f"{section.capitalize()}Settings"
        if name not in self.definitions:
            self.definitions[name] = _settings(name, SECTIONS[section], BOUNDS.get(section, {}))
        return ref(name)

    def kind(self, kind: inspect.Type, at_intake: bool = False) -> Schema:
        """What a value of a type may look like in a file."""
        match kind:
            case inspect.Metadata():
                return self.kind(kind.type, at_intake)
            case inspect.StrType():
                return {"type": "string"} if kind.max_length is None else {"type": "string", "maxLength": kind.max_length}
            case inspect.NoneType():
                return _NULL
            case inspect.LiteralType():
                return _or_reference({"enum": list(kind.values)}, at_intake)
            case inspect.BoolType():
                return {"type": ["boolean", "string"], "pattern": _pattern(_SWITCH, at_intake)}
            case inspect.IntType() | inspect.FloatType():
                name = "integer" if isinstance(kind, inspect.IntType) else "number"
                return {"type": [name, "string"], **_bounds(kind), "pattern": _pattern(_NUMBER, at_intake)}
            case inspect.VarTupleType():
                return self._list(kind, at_intake)
            case inspect.DictType() | inspect.StructType():
                return _or_reference(self._bare(kind, at_intake), at_intake)
            case inspect.UnionType():
                return self._union(kind, at_intake)
            case _:
                return {}

    def _bare(self, kind: inspect.Type, at_intake: bool) -> Schema:
        """The same, but no reference in its own place: only, unless `at_intake`, inside of it."""
        match kind:
            case inspect.StructType():
                return self.struct(kind, at_intake)
            case inspect.DictType():
                return {"type": "object", "additionalProperties": self.kind(kind.value_type, at_intake)}
            case inspect.VarTupleType():
                return {"type": "array", "items": self._bare(kind.item_type, at_intake)}
            case inspect.Metadata():
                return self._bare(kind.type, at_intake)
            case _:
                return self.kind(kind, at_intake=True)

    def _list(self, kind: inspect.VarTupleType, at_intake: bool) -> Schema:
        """A list, or the one text that stands for a list of it."""
        listed = self._bare(kind, at_intake)
        match kind.item_type:
            case inspect.StrType() | inspect.AnyType():
                return {**listed, "type": ["array", "string"]}
            case inspect.LiteralType():
                return _or_reference(any_of(listed, listed["items"]), at_intake)
            case inspect.IntType() | inspect.FloatType():
                return _or_reference(any_of(listed, {"type": "string", "pattern": f"^{_NUMBER}$"}), at_intake)
            case _:
                return _or_reference(listed, at_intake)

    def _union(self, union: inspect.UnionType, at_intake: bool) -> Schema:
        kinds = [one.type if isinstance(one, inspect.Metadata) else one for one in union.types]
        some = [kind for kind in kinds if not isinstance(kind, inspect.NoneType)]
        if len(some) == 1:
            described = self.kind(some[0], at_intake)
        else:  # one text stands for a list only where nothing else may be meant
            described = _or_reference(any_of(*(self._bare(kind, at_intake) for kind in some)), at_intake)
        return _or_null(described) if len(some) < len(kinds) else described

    def _mapping(self, kind: inspect.StructType, name: str, at_intake: bool) -> Schema:
        rules = rules_of(kind.cls)
        properties: Schema = {kind.tag_field: {"const": kind.tag}} if kind.tag_field else {}
        required: list[str] = []
        either: list[Schema] = []
        for own in rules.own_names:
            field = rules.by_name[own]
            properties[own] = self._field(field, at_intake or field.at_intake)
            names = names_of(rules, field)
            properties |= {other: same_as(own, ref(name, own)) for other in names if other != own}
            if field.required and len(names) == 1:
                required.append(own)
            elif field.required:
                either.append({"anyOf": [{"required": [one]} for one in names]})
        described: Schema = {"type": "object", "description": about_struct(kind.cls), "properties": properties, "additionalProperties": False}
        return described | ({"required": required} if required else {}) | ({"allOf": either} if either else {})

    def _field(self, field: FieldRules, at_intake: bool) -> Schema:
        if field.settings:
            described = _or_reference(self.settings(field.settings), at_intake)
        elif field.quantity:
            described = _QUANTITIES[field.quantity]
        else:
            described = self.kind(field.type, at_intake or (field.required and not isinstance(field.type, inspect.StrType)))
        described = {**(described if field.required else _or_null(described)), **field.narrowed}
        if field.about:
            described["description"] = field.about[0].upper() + field.about[1:] + "."
        if field.default not in (None, ""):
            described["default"] = field.default
        return described


def about_struct(struct: type) -> str:
    """What a Struct is for: its docstring on one line."""
    return " ".join((struct.__doc__ or "").split())


def _settings(name: str, names: SectionNames, bounds: dict[str, Bounds]) -> Schema:
    """A pass-through section: known names are typed, any other is for the worker to check."""
    properties: Schema = {known: ref(_SETTING[kind]) if kind in _SETTING else {} for known, kind in names.kinds.items()}
    for known, bound in bounds.items():
        properties[known] |= {"exclusiveMinimum" if bound.is_open else "minimum": bound.least}
        properties[known] |= {"maximum": bound.most} if bound.most < float("inf") else {}
    properties |= {older: same_as(known, ref(name, known)) for older, known in names.aliases.items() if older not in properties}
    gone = {"deprecated": True, "deprecationMessage": "It has no effect: no library takes it any more.", "doNotSuggest": True}
    return {"type": "object", "properties": properties | dict.fromkeys(sorted(names.dead), gone)}


def _or_reference(described: Schema, at_intake: bool) -> Schema:
    return described if at_intake else any_of(described, ref("Reference"))


def _or_null(described: Schema) -> Schema:
    match described:
        case {"type": str(name)}:
            return {**described, "type": [name, "null"]}
        case {"type": list(names)}:
            return {**described, "type": [*dict.fromkeys((*names, "null"))]}
        case {}:
            return any_of(described, _NULL) if described else described
    return described


def _pattern(pattern: str, at_intake: bool) -> str:
    return f"^({pattern})$" if at_intake else f"^({pattern}|{WHOLE_REFERENCE})$"


def _bounds(kind: inspect.IntType | inspect.FloatType) -> Schema:
    bounds = {"minimum": kind.ge, "exclusiveMinimum": kind.gt, "maximum": kind.le, "exclusiveMaximum": kind.lt}
    return {name: bound for name, bound in bounds.items() if bound is not None}
