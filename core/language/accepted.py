"""What a field accepts, in words, and where in the language a name belongs: read off the Structs themselves."""

from __future__ import annotations

from functools import cache

from msgspec import inspect


def accepted(kind: inspect.Type) -> str:
    """What a type of the schema accepts, as a person would say it."""
    match kind:
        case inspect.Metadata():
            return accepted(kind.type)
        case inspect.StrType():
            return "text"
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "null"
        case inspect.AnyType():
            return "any value"
        case inspect.IntType():
            return "a whole number" + _bounds(kind)
        case inspect.FloatType():
            return "a number" + _bounds(kind)
        case inspect.LiteralType():
            return ", ".join(str(value) for value in kind.values if value != "")
        case inspect.VarTupleType() | inspect.ListType():
            return f"a list of {_many(kind.item_type)}"
        case inspect.DictType():
            return f"a mapping of names to {_many(kind.value_type)}"
        case inspect.StructType():
            return "a mapping with " + ", ".join(field.encode_name for field in kind.fields)
        case inspect.UnionType():
            kinds = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
            if len(kinds) > 1 and all(isinstance(one, inspect.StructType) and one.tag for one in kinds):
                return "a mapping whose type is " + ", ".join(str(one.tag) for one in kinds if isinstance(one, inspect.StructType))
            return " or ".join(dict.fromkeys(accepted(one) for one in kinds))
        case _:
            return "another value"


@cache
def names_elsewhere() -> dict[str, list[str]]:
    """For each key of a spec, the paths at which it belongs."""
    from mloc.core.language.spec import TaskSpec  # the Structs need nothing of this module

    paths: dict[str, list[str]] = {}
    _collect(inspect.type_info(TaskSpec), "spec", paths, 0)
    return paths


def _collect(kind: inspect.Type, path: str, paths: dict[str, list[str]], depth: int) -> None:
    match kind:
        case inspect.Metadata():
            _collect(kind.type, path, paths, depth)
        case inspect.UnionType():
            for one in kind.types:
                _collect(one, path, paths, depth)
        case inspect.StructType() if depth < 4:
            for field in kind.fields:
                where = f"{path}.{field.encode_name}"
                if path not in paths.setdefault(field.encode_name, []):
                    paths[field.encode_name].append(path)
                _collect(field.type, where, paths, depth + 1)
        case _:
            return


def _many(kind: inspect.Type) -> str:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    match kind:
        case inspect.StrType():
            return "texts"
        case inspect.IntType() | inspect.FloatType():
            return "numbers"
        case inspect.DictType() | inspect.StructType():
            return "mappings"
        case _:
            return "values"


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    low = f"≥ {kind.ge}" if kind.ge is not None else f"> {kind.gt}" if kind.gt is not None else ""
    high = f"≤ {kind.le}" if kind.le is not None else f"< {kind.lt}" if kind.lt is not None else ""
    return "".join(f" {part}" for part in (low, "and" if low and high else "", high) if part)
