"""Checks a plain value against the Structs and finds everything that is wrong with it, not only the first thing.

msgspec's own conversion decides whether a value is right; this walk is made when it says no, to say why at every place, and to write
what people may write in more than one way (older names, quantities, `yes`, a single text for a list) in the one way of the Structs.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from mloc.core.language.accepted import accepted, names_elsewhere
from mloc.core.language.errors import Path, did_you_mean, dotted, nearest, shown
from mloc.core.language.findings import Findings
from mloc.core.language.passthrough import check_settings
from mloc.core.language.quantities import BYTES_ACCEPTED, CORES_ACCEPTED, QuantityError, cores, size_bytes
from mloc.core.language.references import is_reference
from mloc.core.language.struct_rules import FieldRules, StructRules, fits, fits_bounds, names_of, rules_of, type_of
from mloc.core.language.yaml_scalars import number, switch

ABSENT: Any = object()
"""Stands for a value that is left out: null where there is a default, deferred, or wrong."""


_MANY_NAMES = 16
_NEAR_ENOUGH = 0.8
_MEANT = {
    "Gpu": "count: %s", "Retry": "max_attempts: %s", "Slo": "priority: %s", "Parallel": "shards: %s", "Checkpoint": "load: {path: %s}",
    "CheckpointLoad": "path: %s", "ExportField": "from: %s", "Output": "destination: {path: %s}", "Destination": "path: %s",
    "Model": "source: {identifier: %s}", "HuggingFaceSource": "identifier: %s", "Search": "top_k: %s", "ListData": "jsonl: %s",
}  # fmt: skip
"""What is most likely meant where a text or number stands in place of a mapping."""


class Conformance:
    """One walk over one spec. `partial`: a part that will be merged, so nothing is missing yet and null stays.

    References in places that take no text are put into `deferred` (path in the Structs' names, reference)."""

    def __init__(self, findings: Findings, partial: bool = False) -> None:
        self.findings = findings
        self.partial = partial
        self.deferred: list[tuple[Path, str]] = []
        self.renamed: list[tuple[Path, Path]] = []
        """The path of a field in the Structs' names, and as the file writes it, where they differ."""

    def check(self, value: Any, struct: type[msgspec.Struct], at_intake: bool = False) -> Any:
        """The value as msgspec converts it to the Struct, or ABSENT. `at_intake`: no reference may wait. Raises TooMany."""
        return self._value(value, type_of(struct), (), (), at_intake)

    def own_path(self, written: Path) -> Path:
        """A path as the file writes it, in the Structs' names as far as they are known."""
        nearest_one = max((pair for pair in self.renamed if written[: len(pair[1])] == pair[1]), key=lambda pair: len(pair[1]), default=None)
        return written if nearest_one is None else (*nearest_one[0], *written[len(nearest_one[1]) :])

    def _value(self, value: Any, kind: inspect.Type, path: Path, own: Path, at_intake: bool) -> Any:
        """`path` is as the file writes it, `own` as the Structs name it."""
        match kind:
            case inspect.Metadata():
                return self._value(value, kind.type, path, own, at_intake)
            case inspect.AnyType():
                return value
            case inspect.UnionType():
                return self._union(value, kind, path, own, at_intake)
            case inspect.NoneType() if value is None:
                return value
            case inspect.StructType() if isinstance(value, dict):
                return self._struct(value, kind, path, own, at_intake)
            case inspect.DictType() if isinstance(value, dict):
                return self._mapping(value, kind, path, own, at_intake)
            case inspect.VarTupleType() | inspect.ListType() if isinstance(value, list | tuple):
                items = [self._value(item, kind.item_type, (*path, at), (*own, at), at_intake) for at, item in enumerate(value)]
                return [item for item in items if item is not ABSENT]
            case _:
                return self._scalar(value, kind, path, own, at_intake)

    def _scalar(self, value: Any, kind: inspect.Type, path: Path, own: Path, at_intake: bool) -> Any:
        if is_reference(value) and not isinstance(kind, inspect.StrType):
            return self._defer(value, path, own, at_intake)
        match kind:
            case inspect.StrType() if isinstance(value, str):
                return self._text(value, kind, path)
            case inspect.LiteralType() if value in kind.values and not isinstance(value, bool):
                return value
            case inspect.IntType() | inspect.FloatType():
                taken = _number(value, isinstance(kind, inspect.IntType))
                return self._bounded(taken, value, kind, path) if taken is not None else self._wrong(value, kind, path)
            case inspect.BoolType():
                taken = value if isinstance(value, bool) else switch(value) if isinstance(value, str) else None
                return taken if taken is not None else self._wrong(value, kind, path)
            case inspect.VarTupleType() if isinstance(value, str):
                taken = self._value(value, kind.item_type, path, (*own, 0), at_intake)
                return ABSENT if taken is ABSENT else [taken]
            case _:
                return self._wrong(value, kind, path)

    def _wrong(self, value: Any, kind: inspect.Type, path: Path) -> Any:
        takes = accepted(kind)
        hint = ""
        if isinstance(value, str | int | float) and not isinstance(value, bool) and (meant := _meant(kind)):
            hint = f"write {{{meant % shown(value)}}}"
        elif isinstance(kind, inspect.IntType | inspect.FloatType) and isinstance(value, str) and value[:1].isdigit() and _is_time(path):
            hint = "write seconds, as a plain number"
        elif isinstance(kind, inspect.StrType) and isinstance(value, int | float):
            hint = f'put quotes around it: "{shown(value)}"'
        elif isinstance(kind, inspect.LiteralType) and isinstance(value, str):
            hint = did_you_mean(value, [str(one) for one in kind.values])
        self.findings.wrong(path, "is missing a value" if value is None else "has the wrong value", found=shown(value), accepted=takes, hint=hint)
        return ABSENT

    def _text(self, value: str, kind: inspect.StrType, path: Path) -> Any:
        if kind.max_length is not None and len(value) > kind.max_length:
            self.findings.wrong(path, "is too long", found=f"{len(value)} characters", accepted=f"at most {kind.max_length}")
        return value

    def _bounded(self, taken: Any, value: Any, kind: inspect.IntType | inspect.FloatType, path: Path) -> Any:
        low = (kind.ge is not None and taken < kind.ge) or (kind.gt is not None and taken <= kind.gt)
        high = (kind.le is not None and taken > kind.le) or (kind.lt is not None and taken >= kind.lt)
        if low or high:
            self.findings.wrong(path, f"is too {'small' if low else 'large'}", found=shown(value), accepted=accepted(kind))
            return ABSENT
        return taken

    def _defer(self, value: str, path: Path, own: Path, at_intake: bool) -> Any:
        if at_intake:
            self.findings.wrong(path, "may not be a reference", found=shown(value), hint="it is needed before any stage has run")
        elif own and isinstance(own[-1], int):
            self.findings.wrong(path, "a reference cannot be one item here", found=shown(value), hint="refer to the whole list")
        elif self.partial:
            return value
        else:
            self.deferred.append((own, value))
        return ABSENT

    def _union(self, value: Any, union: inspect.UnionType, path: Path, own: Path, at_intake: bool) -> Any:
        kinds = [one.type if isinstance(one, inspect.Metadata) else one for one in union.types]
        if value is None and any(isinstance(kind, inspect.NoneType) for kind in kinds):
            return None
        structs = [kind for kind in kinds if isinstance(kind, inspect.StructType)]
        others = [kind for kind in kinds if not isinstance(kind, inspect.StructType | inspect.NoneType)]
        if isinstance(value, dict) and structs:
            return self._value(value, self._variant(value, structs, path), path, own, at_intake)
        for kind in others:
            if fits(value, kind):
                return self._value(value, kind, path, own, at_intake)
        if is_reference(value):
            return self._defer(value, path, own, at_intake)
        if len(others) == 1 and not structs:
            return self._value(value, others[0], path, own, at_intake)
        for kind in others:
            if isinstance(value, str) and isinstance(kind, inspect.IntType | inspect.FloatType) and number(value) is not None:
                return self._value(value, kind, path, own, at_intake)
        return self._wrong(value, union, path)

    def _variant(self, value: dict[str, Any], structs: list[inspect.StructType], path: Path) -> inspect.Type:
        """The Struct that the tag names. Without a tag the first, or in a part the one that knows the most keys."""
        if len(structs) == 1:
            return structs[0]
        tag_field = str(structs[0].tag_field)
        tag = value.get(tag_field)
        tags = [str(one.tag) for one in structs]
        if tag is None:
            likely = max(structs, key=lambda one: len(rules_of(one.cls).by_name.keys() & value.keys()))
            if rules_of(likely.cls).by_name.keys() & value.keys() or (self.partial and not value):
                return likely
            self.findings.wrong(path, "does not say what it is", found=shown(value), accepted=f"{tag_field}: {', '.join(tags)}")
            return inspect.AnyType()
        for struct in structs:
            if struct.tag == tag:
                return struct
        hint = "it may not be a reference" if is_reference(tag) else did_you_mean(tag, tags) if isinstance(tag, str) else ""
        self.findings.wrong((*path, tag_field), "is not known", found=shown(tag), accepted=", ".join(tags), hint=hint)
        return inspect.AnyType()

    def _mapping(self, value: dict[str, Any], kind: inspect.DictType, path: Path, own: Path, at_intake: bool) -> Any:
        checked = {name: self._value(item, kind.value_type, (*path, name), (*own, name), at_intake) for name, item in value.items()}
        return {name: item for name, item in checked.items() if item is not ABSENT}

    def _struct(self, value: dict[str, Any], kind: inspect.StructType, path: Path, own: Path, at_intake: bool) -> Any:
        rules = rules_of(kind.cls)
        checked: dict[str, Any] = {}
        meant: set[str] = set()
        if kind.tag_field is not None and not (self.partial and value.get(kind.tag_field) is None):
            checked[kind.tag_field] = kind.tag
        for written, item in value.items():
            field = rules.by_name.get(written)
            place = (*path, written)
            if field is None:
                if written != kind.tag_field:
                    meant.add(self._unknown_key(written, rules, kind, place))
            elif field.name != written and value.get(field.name) is not None:
                self.findings.warn(place, f"{shown(written)} is ignored, because {shown(field.name)}, its present name, is there too")
            elif (taken := self._field(item, field, place, (*own, field.name), at_intake)) is not ABSENT:
                checked[field.name] = taken
                if field.name != written:
                    self.renamed.append(((*own, field.name), place))
        if not self.partial:
            for name in rules.own_names:
                field = rules.by_name[name]
                is_there = name in checked or any(value.get(one) is not None for one in names_of(rules, field))
                if field.required and not is_there and name not in meant:
                    self.findings.wrong(path, f"{shown(name)} is missing", accepted=accepted(field.type))
        return checked

    def _field(self, item: Any, field: FieldRules, path: Path, own: Path, at_intake: bool) -> Any:
        at_intake = at_intake or field.at_intake
        if item is None:
            return None if self.partial else ABSENT
        if field.quantity and not is_reference(item):
            return self._quantity(item, field, path)
        if field.settings and isinstance(item, dict):
            return check_settings(field.settings, item, path, self.findings)
        if field.required and not isinstance(field.type, inspect.StrType) and is_reference(item):
            self.findings.wrong(path, "may not be a reference", found=shown(item), accepted=accepted(field.type))
            return ABSENT
        return self._value(item, field.type, path, own, at_intake)

    def _quantity(self, item: Any, field: FieldRules, path: Path) -> Any:
        is_cores = field.quantity == "cores"
        takes = CORES_ACCEPTED if is_cores else BYTES_ACCEPTED
        try:
            taken = cores(item) if is_cores else size_bytes(item)
        except (QuantityError, TypeError):
            self.findings.wrong(path, "is no quantity", found=shown(item), accepted=takes)
            return ABSENT
        if fits_bounds(taken, field.type):
            return taken
        bounds = "more than 0 and at most 1,000,000 cores" if is_cores else "at most 1024Pi"
        self.findings.wrong(path, "is too small" if is_cores and taken <= 0 else "is too large", found=shown(item), accepted=bounds)
        return ABSENT

    def _unknown_key(self, written: str, rules: StructRules, kind: inspect.StructType, place: Path) -> str:
        """Note an unknown key. Gives the name of the field that is probably meant, or an empty text."""
        known = [*([kind.tag_field] if kind.tag_field else []), *rules.own_names]
        known = known if len(known) <= _MANY_NAMES else [*known[:_MANY_NAMES], f"… ({len(known)} in all)"]
        of_ours = rules.of_others.get(written, "")
        near = "" if of_ours else nearest(written, rules.by_name)
        elsewhere = names_elsewhere().get(written, [])
        if kind.cls.__name__ in ("Document", "Stage") and elsewhere == ["spec"]:
            near, hint = "", "it belongs to spec" if kind.cls.__name__ == "Document" else "it belongs below spec of this stage"
        elif of_ours:
            hint = f'"{of_ours}" takes its place: {rules.by_name[of_ours].about}'
        elif near:
            hint = f'did you mean "{near}"?'
        elif elsewhere:
            hint = f"it belongs to {' or '.join(elsewhere)}" if len(elsewhere) <= 3 else ""
        else:
            far = nearest(written, names_elsewhere(), _NEAR_ENOUGH) if len(place) == 1 else ""
            places = names_elsewhere().get(far, [])
            hint = f'did you mean "{far}" of {places[0]}?' if len(places) == 1 else ""
        where = f" in {dotted(place[:-1])}" if len(place) > 1 else ""
        self.findings.wrong(place, f"the key {shown(written)} is not known{where}", accepted=", ".join(known), hint=hint, at_key=True)
        return rules.by_name[near].name if near else ""


def _meant(kind: inspect.Type) -> str:
    structs = [one for one in kind.types if isinstance(one, inspect.StructType)] if isinstance(kind, inspect.UnionType) else [kind]
    return _MEANT.get(structs[0].cls.__name__, "") if structs and isinstance(structs[0], inspect.StructType) else ""


def _is_time(path: Path) -> bool:
    return str(path[-1]).lower().endswith("sec") if path else False


def _number(value: Any, whole: bool) -> int | float | None:
    """A number where one is expected: also a text that is one, and a whole float for a whole number."""
    if isinstance(value, str):
        value = number(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if not whole:
        return value
    return int(value) if float(value).is_integer() else None
