"""The reference of the task language is fresh, its links lead somewhere, its examples are right, and `schema` prints what editors take."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from mloc.core.language.json_schema import schema_text, task_schema
from mloc.core.language.reading import read_tasks
from mloc.core.language.task_types import KNOWN
from mloc.core.language.yaml_source import load_documents
from mloc.executors.registry import BUILT_IN
from mloc.services.intake.cli import main
from mloc.services.intake.language_examples import EXAMPLES, RULES
from mloc.services.intake.language_page import language_page

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_and_the_schema_in_docs_are_fresh() -> None:
    assert (DOCS / "task-language.md").read_text() == language_page(), "run `make docs`"
    assert (DOCS / "task.schema.json").read_text() == schema_text(), "run `make docs`"


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_is_accepted_without_a_warning_and_fits_the_schema(title: str) -> None:
    assert read_tasks(EXAMPLES[title]).warnings == ()
    for document in load_documents(EXAMPLES[title])[0]:
        jsonschema.Draft202012Validator(task_schema()).validate(document)


def test_links_lead_to_headings_that_are_there() -> None:
    page = re.sub(r"(?s)```.*?```", "", language_page())
    headings = [line.lstrip("# ") for line in page.splitlines() if line.startswith("#")]
    anchors = {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}
    assert len(anchors) == len(headings)
    assert set(re.findall(r"\(#([^)]*)\)", page)) <= anchors


def test_the_page_says_which_types_this_version_runs() -> None:
    runs, waits = RULES.split("Other known types")[0], RULES.split("Other known types")[1]
    assert set(BUILT_IN) <= set(re.findall(r"`(\w+)`", runs))
    assert KNOWN - set(BUILT_IN) <= set(re.findall(r"`(\w+)`", waits.split("types of plug-ins")[0]))


def test_schema_is_printed_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == task_schema()

    assert main(["schema", "--output", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text()) == task_schema()
    assert "yaml-language-server: $schema=" in capsys.readouterr().out


def test_a_schema_that_cannot_be_written_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--output", str(tmp_path / "none" / "s.json")]) == 1
    assert "No such file or directory" in capsys.readouterr().err
