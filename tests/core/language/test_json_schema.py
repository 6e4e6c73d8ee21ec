"""The JSON Schema takes what the reader takes, and refuses most of what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_files import VALID, task
from test_reading_errors import BROKEN, NO_TASK
from test_task_file_fuzz import KEYS, PIECES, values

from mloc.core.language.errors import LanguageError
from mloc.core.language.json_schema import task_schema
from mloc.core.language.passthrough_names import SECTIONS
from mloc.core.language.reading import read_tasks
from mloc.core.language.spec import TaskSpec
from mloc.core.language.yaml_source import load_documents

SCHEMA = task_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
TEMPLATES = [file for layer in ("core", "experiments") for file in sorted((Path(__file__).parents[3] / "templates" / layer).glob("*.yaml"))]

ONLY_READING_SEES = {
    'did you mean "inference"?',  # another type may be a plug-in's
    'the key "taskType" appears twice',
    "names no dataset", "names no file", "names no stage", '"identifier" is missing', "path, url or taskId",  # a stage may get it by merging
    "together with regex", "does not divide hidden_size", '"url" is missing',
    "leads out of the results folder", "leads out of the task's folder",
    "is no reference", "cannot be written", 'unknown stage "b"', 'unknown stage "c"', 'unknown stage "a"', "refers to its own result",
    "may not be a reference",  # dependsOn takes one text for a list
    '"a" is used by two stages', '"taskType" is missing', 'names no stage of this file: "c"', "a → b → a",
    "either node and path, or expr", "is not allowed", 'did you mean "table"?',
    "the file holds no task",
}  # fmt: skip


def refusals(text: str) -> list[str]:
    """What the schema has against the documents of a file."""
    documents = [document for document in load_documents(text)[0] if document is not None]
    return [f"{error.json_path}: {error.message[:200]}" for document in documents for error in VALIDATOR.iter_errors(document)]


def test_it_is_a_schema_also_for_editors_that_know_draft_7() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert msgspec.json.decode(msgspec.json.encode(SCHEMA)) == SCHEMA


@pytest.mark.parametrize("name", VALID)
def test_a_file_of_the_language_fits(name: str) -> None:
    assert refusals(task(VALID[name])) == []
    as_draft_7 = jsonschema.Draft7Validator({**SCHEMA, "$schema": "http://json-schema.org/draft-07/schema#"})
    assert all(as_draft_7.is_valid(document) for document in load_documents(task(VALID[name]))[0])


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_fits(path: Path) -> None:
    assert refusals(path.read_text()) == []


@pytest.mark.parametrize(("spec", "place", "parts"), BROKEN)
def test_a_wrong_spec_does_not_fit_unless_only_reading_can_see_it(spec: str, place: str, parts: tuple[str, ...]) -> None:
    if not refusals(task(spec)):
        assert ONLY_READING_SEES.intersection(parts)


@pytest.mark.parametrize(("text", "place", "parts"), NO_TASK)
def test_what_is_no_task_file_does_not_fit_either(text: str, place: str, parts: tuple[str, ...]) -> None:
    try:
        refused = refusals(text)
    except LanguageError:  # no YAML
        return
    assert refused or ONLY_READING_SEES.intersection(parts)


def test_most_of_what_is_wrong_does_not_fit() -> None:
    assert sum(bool(refusals(task(spec))) for spec, _, _ in BROKEN if "appears twice" not in spec) > len(BROKEN) // 2


def test_several_documents_are_held_against_it_one_by_one() -> None:
    assert refusals(task("taskType: echo") + "---\n" + task("taskType: echo")) == []
    assert len(refusals(task("taskType: echo") + "---\n" + task("taskTyp: echo"))) > 0


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        ("taskType: inference\nprompts: [a]", True),
        ("taskType: inference\ndata: [a, {prompt: b}]", True),
        ("taskType: inference\ndata: {jsonl: a.jsonl, shuffle: yes}", True),
        ("taskType: inference\ninference: {max_tokens: 5}", False),
        ("taskType: sft\njsonl_path: a.jsonl\nhyperparameters: {reward_model: org/m, tools: [x], batch_size: '4', anything: 5}", True),
        ("taskType: sft\njsonl_path: a.jsonl\nhyperparameters: {batch_size: four}", False),
        ("taskType: rag\nembedding: org/e\nqdrant: {url: x}\nsearch: {k: 5}\nretrieval: {vector_db: qdrant, retrieval_k: 5}", True),
        ("taskType: rag\nretrieval: {vector_db: lance}", False),
        ("taskType: echo\nresources: {hardware: {memory: 1.5 GiB, cpu: 250m}}", True),
        ("taskType: echo\nresources: {hardware: {memory: 5 m}}", False),
        ("taskType: echo\nresources: {hardware: {gpu: {count: '0x2'}}}", True),
        ("taskType: grpo\nprompts: a\nrewards: [{type: length, weight: '${a.result.w}'}]", True),
        ("taskType: echo\nenforce_cpu: ${a.result.x}", False),
        ("graph: [{id: a, spec: {taskType: echo}}, {name: b, depends_on: a, spec: {taskType: echo}}]", True),
        ("stages: [{name: a, spec: {graph: {nodes: []}}}]", False),
    ],
)
def test_shorthands_fit_where_the_reader_takes_them(spec: str, fits: bool) -> None:
    assert (refusals(task(spec)) == []) is fits


def test_every_key_of_a_struct_and_every_name_of_a_section_is_described() -> None:
    definitions = SCHEMA["$defs"]
    assert {field.encode_name for field in msgspec.structs.fields(TaskSpec)} - {"deferred"} <= definitions["TaskSpec"]["properties"].keys()
    for section, names in SECTIONS.items():
        known = definitions[f"{section.capitalize()}Settings"]["properties"].keys()
        assert known == names.kinds.keys() | names.aliases.keys() | names.dead
    for name, definition in definitions.items():
        if "additionalProperties" in definition and definition["additionalProperties"] is False:
            for key, described in definition["properties"].items():
                assert key == "type" or described.get("description") or name == "JsonlShorthand", f"{name}.{key} says nothing"


damage = st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from([*PIECES, *KEYS, ""]))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([task(spec) for spec in VALID.values()]), st.lists(damage, min_size=1, max_size=3))
def test_what_is_read_without_a_warning_fits_whatever_was_done_to_the_file(text: str, damages: list[tuple[float, int, str]]) -> None:
    for where, removed, inserted in damages:
        at = int(where * len(text))
        text = text[:at] + inserted + text[at + removed :]
    accepted = _read(text)

    if accepted is not None and not accepted.warnings:
        assert refusals(text) == []


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(TaskSpec.__struct_encode_fields__)), values)
def test_what_a_key_takes_fits(key: str, value: Any) -> None:
    try:
        text = msgspec.json.encode({"apiVersion": "mloc/v1", "spec": {"taskType": "echo", key: value}}).decode()
    except (msgspec.MsgspecError, OverflowError):
        return
    accepted = _read(text)

    if accepted is not None and not accepted.warnings:
        assert refusals(text) == []


def _read(text: str) -> Any:
    try:
        return read_tasks(text)
    except LanguageError:
        return None
