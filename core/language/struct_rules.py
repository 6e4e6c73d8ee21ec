"""How the fields of the Structs are written in a file: read off the Structs once, for the walk that explains what is wrong."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from msgspec import inspect


class FieldRules(NamedTuple):
    """How one field of a Struct is written and checked."""

    name: str
    type: inspect.Type
    required: bool
    at_intake: bool
    quantity: str
    settings: str
    about: str
    default: Any
    """None also where the default is an empty mapping or another Struct."""
    narrowed: dict[str, Any]
    """What the JSON Schema says beyond the type."""


class StructRules(NamedTuple):
    """The fields of a Struct by every name that a file may use, and by their own."""

    by_name: dict[str, FieldRules]
    own_names: tuple[str, ...]
    of_others: dict[str, str]
    """Names that other programs have, and the field that takes their place."""


@cache
def rules_of(struct: type) -> StructRules:
    """How the fields of a Struct are written."""
    kind = type_of(struct)
    assert isinstance(kind, inspect.StructType)
    by_name: dict[str, FieldRules] = {}
    own_names: list[str] = []
    of_others: dict[str, str] = {}
    for field in kind.fields:
        if field.name == "deferred":  # the reader's own, no key of the language
            continue
        inner, extra, narrowed = field.type, dict[str, Any](), dict[str, Any]()
        while isinstance(inner, inspect.Metadata):
            extra |= inner.extra or {}
            narrowed |= inner.extra_json_schema or {}
            inner = inner.type
        if isinstance(inner, inspect.UnionType):  # an optional quantity: the mark is on the member
            for one in inner.types:
                extra |= (one.extra or {}) if isinstance(one, inspect.Metadata) else {}
        rules = FieldRules(
            field.encode_name, inner, field.required, bool(extra.get("at_intake")), extra.get("quantity", ""), extra.get("settings", ""),
            narrowed.pop("description", ""), field.default if isinstance(field.default, str | int | float) else None, narrowed,
        )  # fmt: skip
        own_names.append(field.encode_name)
        for name in (field.encode_name, *extra.get("also", ())):
            by_name.setdefault(name, rules)
        of_others |= dict.fromkeys(extra.get("instead_of", ()), field.encode_name)
    return StructRules(by_name, tuple(own_names), of_others)


@cache
def type_of(struct: type) -> inspect.Type:
    return inspect.type_info(struct)


def names_of(rules: StructRules, field: FieldRules) -> list[str]:
    return [name for name, one in rules.by_name.items() if one is field]


def fits(value: Any, kind: inspect.Type) -> bool:
    """Whether a value is of a kind without being rewritten."""
    match kind:
        case inspect.StrType():
            return isinstance(value, str)
        case inspect.LiteralType():
            return isinstance(value, str | int) and value in kind.values
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool)
        case inspect.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool)
        case inspect.VarTupleType() | inspect.ListType():
            return isinstance(value, list | tuple)
        case inspect.DictType():
            return isinstance(value, dict)
        case inspect.AnyType():
            return True
        case _:
            return False


def fits_bounds(number: float, kind: inspect.Type) -> bool:
    """Whether a number lies within the bounds of a (perhaps optional) number type."""
    match kind:
        case inspect.Metadata():
            return fits_bounds(number, kind.type)
        case inspect.UnionType():
            return any(fits_bounds(number, one) for one in kind.types if not isinstance(one, inspect.NoneType))
        case inspect.IntType() | inspect.FloatType():
            low = (kind.ge is None or number >= kind.ge) and (kind.gt is None or number > kind.gt)
            return low and (kind.le is None or number <= kind.le) and (kind.lt is None or number < kind.lt)
        case _:
            return True
