"""Every template runs as its case says, on real processes: the quick ones always, those with models in the deep tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from template_cases import CASES, case_file, case_of, lacking, names, options_of, run_case, task_types
from whole_cell import WholeCell

from mloc.core.language.reading import read_tasks
from mloc.executors.registry import BUILT_IN
from mloc.services.intake.task_file import LAYERS, layer_of, templates


@pytest.fixture(scope="module")
def cell() -> Iterator[WholeCell]:
    """One running system for all cases."""
    running = WholeCell(workers=2, WORKER_ENV_ALLOW="ORCHESTRATOR_TOKEN", LOG_LEVEL="WARNING")
    yield running
    running.close()


@pytest.mark.parametrize("name", names(models=False))
def test_a_template_without_a_model_runs(cell: WholeCell, name: str) -> None:
    run_case(cell, name)


@pytest.mark.models
@pytest.mark.deep
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", names(models=True))
def test_a_template_with_a_model_runs_on_a_tiny_one(cell: WholeCell, name: str) -> None:
    if reason := lacking(name):
        pytest.skip(reason)
    run_case(cell, name)


@pytest.mark.parametrize("name", templates())
def test_a_template_made_small_is_still_right(name: str) -> None:
    case = case_of(name)
    written = options_of(case, {"api": "http://127.0.0.1:1", "sink": "http://127.0.0.1:2"})
    overrides = dict(option.split("=", 1) for option in written[1::2])
    read = read_tasks(templates()[name].read_bytes(), name, overrides)
    there = {task.suffix or plan.metadata.name for plan in read.documents for task in plan.tasks if task.role != "pipeline"}
    assert case["expect"]["states"].keys() <= there
    assert case["expect"]["results"].keys() <= there


def test_each_template_has_a_case_and_each_case_a_template() -> None:
    assert {file.stem for file in CASES.glob("*.yaml")} == set(templates())
    assert {layer_of(path) for path in templates().values()} == set(LAYERS)
    assert len(templates()) >= 24
    for name in templates():
        case: dict[str, Any] = yaml.safe_load(case_file(name).read_text())
        assert case.keys() <= {"seconds", "models", "waits_for", "set", "expect"}
        assert case["seconds"] <= 300


def test_every_task_type_runs_in_some_template() -> None:
    run = {name for models in (False, True) for name in names(models=models)}
    assert set(BUILT_IN) <= set().union(*map(task_types, run))


def test_the_names_that_people_know_are_there() -> None:
    assert {"inference_vllm_mistral", "ppo_training_mistral", "sft_mistral_7b", "sft_tiny", "echo", "tiny_pipeline"} <= set(templates())
