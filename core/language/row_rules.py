"""What `data` can still get wrong when it has the right shape: rows that are none, files and datasets that are not named."""

from __future__ import annotations

import re
from typing import Any

from mloc.core.jsonl_export import export_file
from mloc.core.language.content_parts import check_parts, is_parts
from mloc.core.language.data_spec import DatasetData, GraphTemplateData, JsonlData, JsonlExport, ListData, MessagesData, PreferencesData
from mloc.core.language.errors import did_you_mean, shown
from mloc.core.language.findings import Findings
from mloc.core.language.graph_template import check_template

_EDGE = r"-?\d+%?"
_SLICE = rf"[\w.-]+(\[({_EDGE})?:({_EDGE})?\])?(\(\w+\))?"
_SPLIT = re.compile(rf"\s*{_SLICE}(\s*\+\s*{_SLICE})*\s*")
SPLITS = "train, train[:100], train[10%:20%], train+test"
_TURN = "{role, content}"
_ROLES = ("system", "user", "assistant", "tool", "developer")


def check_rows(data: Any, findings: Findings, deferred: bool) -> None:
    """Note what is wrong with the rows. `deferred`: a reference will give them, so that none are there yet."""
    match data:
        case ListData(items=()) | PreferencesData(preferences=()) | MessagesData(messages=()) if not deferred:
            findings.wrong(("data",), "holds no rows", accepted="at least one")
        case ListData(items=items):
            for at, item in enumerate(items):
                if isinstance(item, str) and item:
                    continue
                _check_item(item, at, findings)
        case PreferencesData(preferences=rows):
            for at, row in enumerate(rows):
                if missing := [name for name in ("prompt", "chosen", "rejected") if name not in row]:
                    findings.wrong(("data", "preferences", at), f"lacks {', '.join(missing)}", accepted="prompt, chosen, rejected")
        case MessagesData(messages=turns):
            for at, turn in enumerate(turns):
                for step, one in enumerate(turn) if isinstance(turn, list | tuple) else ((None, turn),):
                    _check_turn(one, ("data", "messages", at, *(() if step is None else (step,))), findings)
        case DatasetData(identifier=None, url=None, path=None) if not deferred:
            findings.wrong(("data",), "names no dataset", accepted="identifier, url or path")
        case DatasetData(split=split) if "${" not in split and not _SPLIT.fullmatch(split):
            findings.wrong(("data", "split"), "is no split", found=shown(split), accepted=SPLITS)
        case JsonlData(path=None, url=None) if not deferred:
            findings.wrong(("data",), "names no file", accepted="path or url")
        case GraphTemplateData(template=template):
            check_template(template, findings)
        case _:
            return


def check_export(export: JsonlExport, findings: Findings) -> None:
    """Note what is wrong with the fields of an exported row."""
    place = ("postprocess", "jsonl_export")
    try:
        export_file(export)
    except ValueError:
        findings.wrong((*place, "path"), "does not lie below the task's artifacts", found=shown(export.path), accepted="such as train/rows.jsonl")
    for name, field in export.fields.items():
        if field.source == "metadata" and not field.key:
            findings.wrong((*place, "fields", name), '"key" is missing', accepted="{from: metadata, key: which metadata}")
        elif field.source == "literal" and field.value is None:
            findings.wrong((*place, "fields", name), '"value" is missing', accepted="{from: literal, value: what is written}")
    for at, name in enumerate(export.required_fields):
        if export.fields and name not in export.fields:
            hint = did_you_mean(name, export.fields)
            findings.wrong((*place, "required_fields", at), "is none of the fields", found=shown(name), accepted=", ".join(export.fields), hint=hint)


def _check_item(item: Any, at: int, findings: Findings) -> None:
    place = ("data", "items", at)
    match item:
        case dict() if item:
            if isinstance(item.get("messages"), list | tuple):
                for step, turn in enumerate(item["messages"]):
                    _check_turn(turn, (*place, "messages", step), findings)
            else:
                check_parts(item, place, findings)
        case list() | tuple() if item and all(isinstance(turn, dict) for turn in item) and not is_parts(item):
            for step, turn in enumerate(item):
                _check_turn(turn, (*place, step), findings)
        case int() | float():
            written = f'put quotes around it: "{shown(item)}"'
            findings.wrong(place, "is no row", found=shown(item), accepted="a text or a mapping, or a list of chat turns", hint=written)
        case _:
            found = "an empty text" if item == "" else shown(item)
            findings.wrong(place, "is no row", found=found, accepted="a text or a mapping, or a list of chat turns")


def _check_turn(turn: Any, place: tuple[str | int, ...], findings: Findings) -> None:
    if not isinstance(turn, dict) or "role" not in turn:
        findings.wrong(place, "is no chat turn", found=shown(turn), accepted=_TURN)
    else:
        role = turn["role"]
        if not isinstance(role, str) or (role not in _ROLES and "${" not in role):
            hint = (did_you_mean(role, _ROLES) if isinstance(role, str) else "") or f"most know {', '.join(_ROLES)}"
            findings.warn((*place, "role"), f"{shown(role)} is a role that hardly any chat template knows", hint=hint, at_key=False)
        check_parts(turn, place, findings)
