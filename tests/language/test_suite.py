"""Many valid and many broken files: each is read, or refused, exactly as its expectation says. `python tests/language/suite.py` writes those anew."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
from suite import BROKEN, VALID, expected, outcome

from mloc.core.language.errors import LanguageError
from mloc.core.language.json_schema import task_schema
from mloc.core.language.reading import read_tasks
from mloc.core.language.yaml_source import decode_text, load_documents
from mloc.services.intake.cli import main

VALIDATOR = jsonschema.Draft202012Validator(task_schema())

SCHEMA_CANNOT_SEE = {
    # what only the text shows
    "key_twice", "keys_twice_in_several_places", "huge_integer",
    # what needs two places of the file to be seen
    "stage_names_alike", "dependency_unknown", "dependency_on_itself", "cycle", "cycle_by_references", "stage_lacks_what_no_one_shares",
    "reference_to_unknown_stage", "reference_to_itself", "reference_in_a_single_task", "reference_malformed", "reference_to_a_secret",
    "stage_of_the_model_unknown", "structured_output_twice", "several_greedy_answers", "shortest_above_longest",
    # what a stage may still get by merging, or a plug-in may add
    "checkpoint_without_a_place", "source_without_identifier", "source_names_no_stage", "dataset_not_named",
    "data_does_not_say_what_it_is", "jsonl_without_a_file", "destination_without_url", "evaluation_without_rows", "gate_without_bound",
    "task_type_mistyped", "task_type_in_capitals", "task_type_is_a_reference", "template_empty", "template_columns_wrong",
    # what a pattern in the schema would say less well
    "split_not_closed", "schema_text_is_no_json", "answer_schema_with_no_such_type", "schema_text_is_a_list", "structured_output_of_nothing",
    "image_without_a_place", "image_is_no_data_uri", "destination_leads_out", "notify_is_no_url",
    # documents that hold nothing
    "nothing_but_comments", "empty_documents_only", "zero_bytes",
}  # fmt: skip


ANEW = "if it should read like this now: python tests/language/suite.py, and look at each line of the diff"


def name_of(file: Path) -> str:
    return file.stem


def schema_refuses(file: Path) -> bool | None:
    """None where the file is no YAML, so that no schema gets to see it."""
    try:
        documents, problems = load_documents(decode_text(file.read_bytes()))
    except LanguageError:
        return None
    if problems and file.stem not in SCHEMA_CANNOT_SEE:
        return None
    return any(not VALIDATOR.is_valid(document) for document in documents if document is not None)


@pytest.mark.parametrize("file", VALID, ids=name_of)
def test_a_valid_file_gives_its_plan_and_warnings_and_fits_the_schema(file: Path) -> None:
    assert outcome(file) == expected(file), ANEW
    assert isinstance(expected(file), dict)
    if not any("not known here" in warning["message"] or "ignored" in warning["message"] for warning in expected(file)["warnings"]):
        documents, _ = load_documents(decode_text(file.read_bytes()))
        assert [error.message for document in documents if document is not None for error in VALIDATOR.iter_errors(document)] == []


@pytest.mark.parametrize("file", BROKEN, ids=name_of)
def test_a_broken_file_is_refused_with_every_problem_at_its_place(file: Path) -> None:
    assert outcome(file) == expected(file), ANEW
    assert isinstance(expected(file), list)


@pytest.mark.parametrize("file", BROKEN, ids=name_of)
def test_the_schema_refuses_a_broken_file_too_unless_no_schema_can(file: Path) -> None:
    assert schema_refuses(file) in ((False,) if file.stem in SCHEMA_CANNOT_SEE else (True, None))


@pytest.mark.parametrize("file", BROKEN, ids=name_of)
def test_a_problem_has_a_place_and_says_what_to_do(file: Path) -> None:
    for problem in expected(file):
        assert problem.get("line") or problem["message"] in ("the file holds no task", "the file declares tags")
        assert problem.get("hint") or problem.get("accepted") or file.stem in SELF_EXPLAINING, problem


SELF_EXPLAINING = {
    "alias_inside_its_anchor", "alias_without_anchor", "merge_of_a_text", "destination_leads_out", "reference_malformed", "reference_to_itself",
    "shortest_above_longest", "template_columns_wrong", "scratch_sizes_do_not_fit",
}  # fmt: skip
"""The message names all there is to know."""


def test_there_are_enough_of_both() -> None:
    assert len(VALID) >= 60
    assert len(BROKEN) >= 120


def test_no_two_problems_of_a_file_stand_at_one_place() -> None:
    for file in BROKEN:
        places = [(one.get("line"), one.get("column"), one.get("path")) for one in expected(file)]
        assert len(places) == len(set(places)), file.name


def test_the_problems_of_a_folder_are_said_for_each_file_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in [VALID[0], *BROKEN[:5]]:
        (tmp_path / file.name).write_bytes(file.read_bytes())

    assert main(["validate", str(tmp_path)]) != 0

    said = capsys.readouterr()
    assert all(file.name in said.err for file in BROKEN[:5])
    assert VALID[0].name in said.out


def test_many_files_are_read_into_plans_that_hold_what_they_say() -> None:
    """A look by hand at one, so that the expectations are not all there is to trust."""
    file = next(file for file in VALID if file.stem == "diamond")
    (plan,) = read_tasks(file.read_bytes()).documents
    assert [(task.name, task.depends_on) for task in plan.tasks[1:]] == [
        ("start", ()), ("left", ("start",)), ("right", ("start",)), ("end", ("left", "right")),
    ]  # fmt: skip
