"""The templates that ship: each is a right file, and the main one does what it says."""

from collections.abc import Callable
from pathlib import Path

import pytest
from driven_host import DrivenHost
from pipeline_run import TEMPLATES, run_template

from mloc.core.language.reading import read_tasks
from mloc.core.needs.need import need_of

FILES = [file for layer in ("core", "experiments") for file in sorted((TEMPLATES / layer).glob("*.yaml"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_template_is_read_without_a_warning(file: Path) -> None:
    read = read_tasks(file.read_text(), file.name)
    assert read.warnings == ()
    assert all(plan.tasks for plan in read.documents)


def test_the_echo_template_is_light() -> None:
    (document,) = read_tasks((TEMPLATES / "core" / "echo.yaml").read_text()).documents
    assert need_of(document.tasks[0].spec).light


@pytest.mark.models
def test_the_tiny_pipeline_learns_is_tuned_and_sums_up(host: Callable[..., DrivenHost], tmp_path: Path) -> None:
    results = run_template("tiny_pipeline", tmp_path, host)

    training = results["pretrain"]["training"]
    assert training["final_loss"] < training["first_loss"] / 10
    before = {item["prompt"]: item["output"] for item in results["before"]["items"]}
    after = {item["prompt"]: item["output"] for item in results["answer"]["items"]}
    assert before["What is the capital of Peru?"] == "The capital of Peru is Lima."
    assert after["What is the capital of Peru?"] == "Lima."
    assert [item["index"] for item in results["answer"]["items"]] == list(range(len(before)))
    changed = sum(after[question] != before[question] for question in before)
    right = sum(answer in before[question] and len(answer) < 12 for question, answer in after.items())
    assert changed == len(before)
    assert right >= len(before) - 3
    summary = results["summary"]["items"][0]["output"]
    assert "| What is the capital of Peru? | The capital of Peru is Lima. | Lima. |" in summary
    assert str(training["final_loss"]) in summary
