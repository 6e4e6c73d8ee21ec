"""The JSON Schema (2020-12) of a task file, for editors and for programs that write task files.

It is made from the Structs that read a file, with everything that a file may write beside them: older names, shorthands, quantities,
references, the stages of a pipeline. What `read_tasks` accepts fits it. What needs more than one place to be seen (whether a stage is
named that exists, whether sizes divide, whether a merged stage has all that it needs) only `read_tasks` can refuse.
Editors hold each document of a file against it; keywords that draft 7 does not know are left out or change nothing there.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from mloc.core.language.data_spec import ROW, JsonlData, ListData
from mloc.core.language.errors import Path
from mloc.core.language.plan import MAX_TASKS
from mloc.core.language.schema_kinds import Kinds, Schema, any_of, ref, same_as
from mloc.core.language.shorthands import MOVED, MOVED_HYPERPARAMETERS, MOVED_IN_RETRIEVAL, OLDER_TASK_TYPES
from mloc.core.language.spec import Document, Stage, TaskSpec
from mloc.core.language.struct_rules import rules_of, type_of
from mloc.core.language.task_types import KNOWN, NEED_ROWS

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TEXT: Schema = {"type": "string"}
_ROWS: Schema = {"type": "array", "items": ROW}


def task_schema() -> Schema:
    """The schema of one document of a task file, as plain JSON values."""
    kinds = Kinds()
    for struct in (Document, Stage, TaskSpec):
        kinds.struct(_struct(struct), at_intake=struct is not TaskSpec)
    definitions = kinds.definitions
    _add_shorthands(definitions)
    _add_stages(definitions)
    document = definitions.pop("Document")
    document["properties"]["spec"] = {**document["properties"]["spec"], **_spec()}
    return {
        "$schema": DIALECT, "title": "MLOC task file",
        **document, "$defs": dict(sorted(definitions.items())),
    }  # fmt: skip


def schema_text() -> str:
    """The schema as it is written to a file."""
    return msgspec.json.format(msgspec.json.encode(task_schema()), indent=1).decode() + "\n"


def _spec() -> Schema:
    """A document's spec: a pipeline, or a task, which must then say all that it needs."""
    rows: list[Schema] = [{"required": ["data"]}, {"required": ["prompts"]}, {"required": ["jsonl_path"]}]
    rows.append({"required": ["inference"], "properties": {"inference": {"required": ["prompts"]}}})
    not_empty = {name: {"minItems": 1} for name in ("items", "prompts", "preferences", "messages")}
    task: Schema = {
        "required": ["taskType"],
        "properties": {"data": {"minProperties": 1, "properties": not_empty}},
        "if": {"properties": {"taskType": {"enum": sorted(NEED_ROWS)}}, "required": ["taskType"]},
        "then": {"anyOf": rows},
    }  # fmt: skip
    return {"allOf": [
        ref("TaskSpec"),
        {"not": {"required": ["stages", "graph"]}},
        {"if": {"not": {"anyOf": [{"required": ["stages"]}, {"required": ["graph"]}]}}, "then": task},
    ]}  # fmt: skip


def _add_stages(definitions: dict[str, Schema]) -> None:
    """`stages` and `graph` beside the keys of a task; what a stage needs is known only when it is merged."""
    definitions["TaskSpec"].pop("required")
    definitions["Stage"]["properties"]["spec"] |= {
        "type": ["object", "null"], "allOf": [ref("TaskSpec")], "not": {"anyOf": [{"required": ["stages"]}, {"required": ["graph"]}]},
    }  # fmt: skip
    stages = {"type": "array", "items": ref("Stage"), "minItems": 1, "maxItems": MAX_TASKS - 1}
    nodes = {"type": "object", "properties": {"nodes": stages}, "required": ["nodes"], "additionalProperties": False}
    definitions["TaskSpec"]["properties"] |= {
        "stages": {**stages, "description": "A chain: each stage waits for the one before unless its dependsOn says otherwise."},
        "graph": {**any_of(nodes, stages), "description": "A graph: each node waits for what its dependsOn names, and for what it refers to."},
    }


def _add_shorthands(definitions: dict[str, Schema]) -> None:
    spec = definitions["TaskSpec"]["properties"]
    kinds = sorted(KNOWN) + sorted(OLDER_TASK_TYPES)
    spec["taskType"] = {**spec["taskType"], "anyOf": [{"enum": kinds}, {"type": "string", "minLength": 1}]}
    _add_data_shorthands(definitions)
    for name, path in MOVED.items():
        spec.setdefault(name, same_as(_written(path), _pointer(path)))
    moved = {name: same_as(f"spec.{_written(path)}", _pointer(path)) for name, path in MOVED_HYPERPARAMETERS.items()}
    definitions["Hyperparameters"] = {"allOf": [ref("TrainingSettings")], "properties": moved}
    spec["hyperparameters"] = {
        **any_of(ref("Hyperparameters"), ref("Reference"), {"type": "null"}),
        "description": "The same as `training`, with some names of other sections.",
    }  # fmt: skip
    definitions["Model"]["properties"]["lora"] = same_as("model.adapter", ref("Model", "adapter"))
    retrieval = definitions["Retrieval"]["properties"]
    retrieval |= {name: same_as(_written(path), _pointer(("retrieval", *path))) for name, path in MOVED_IN_RETRIEVAL.items()}
    for mapping in (retrieval["embedding"], spec["reward_model"], spec["notify"]):  # a text stands for the mapping
        mapping["anyOf"].append(_TEXT)


def _add_data_shorthands(definitions: dict[str, Schema]) -> None:
    """`data` as a bare list, `data.jsonl` and `data.jsonl_path`, and `inference.prompts`."""
    jsonl = definitions[JsonlData.__name__]
    short = {"jsonl": any_of(ref(JsonlData.__name__), _TEXT), "jsonl_path": _TEXT}
    definitions["JsonlShorthand"] = {
        **jsonl, "description": "Rows of a jsonl file, with its settings or its path only.",
        "properties": {**short, **{name: ref(JsonlData.__name__, name) for name in jsonl["properties"] if name != "type"}, "type": _TEXT},
        "anyOf": [{"required": [name]} for name in short],
    }  # fmt: skip
    definitions["TaskSpec"]["properties"]["data"]["anyOf"] += [ref("JsonlShorthand"), _ROWS]
    definitions["Inference"]["properties"]["prompts"] = same_as("spec.data.items", ref(ListData.__name__, "items"))


def _struct(struct: type) -> inspect.StructType:
    kind = type_of(struct)
    assert isinstance(kind, inspect.StructType)
    return kind


def _written(path: Path) -> str:
    return ".".join(map(str, path))


def _pointer(path: Path) -> Schema:
    """The definition of what is at a path below `spec`."""
    structs: list[type] = [TaskSpec]
    place: Schema = {}
    for step in map(str, path):
        owner = next((one for one in structs if step in rules_of(one).by_name), None)
        if owner is None:
            return _TEXT  # data.jsonl_path is no field of a Struct
        field = rules_of(owner).by_name[step]
        if field.settings and path[-1] != step:
            return ref(f"{field.settings.capitalize()}Settings", str(path[-1]))
        place = ref(owner.__name__, field.name)
        structs = _structs_in(field.type)
    return place


def _structs_in(kind: Any) -> list[type]:
    match kind:
        case inspect.Metadata():
            return _structs_in(kind.type)
        case inspect.UnionType():
            return [struct for one in kind.types for struct in _structs_in(one)]
        case inspect.StructType():
            return [kind.cls]
        case _:
            return []
