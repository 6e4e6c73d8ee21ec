"""Intake warns of a destination that the aggregator will not use."""

from __future__ import annotations

from pathlib import Path

import pytest

from mloc.core.language.reading import read_tasks
from mloc.services.intake.destinations import destination_warnings


def warnings_for(path: str, root: Path, *allowed: str) -> list[str]:
    text = f"{{apiVersion: mloc/v1, spec: {{taskType: echo, output: {{destination: {{path: {path}}}}}}}}}"
    return destination_warnings(read_tasks(text).documents, root / "results", allowed)


@pytest.mark.parametrize("path", ["runs/today", "${env.RUNS}/x"])
def test_a_folder_below_the_results_is_fine(path: str, tmp_path: Path) -> None:
    assert warnings_for(f'"{path}"', tmp_path) == []


def test_an_absolute_folder_needs_an_allowed_root(tmp_path: Path) -> None:
    outside = str(tmp_path / "elsewhere" / "x")
    assert warnings_for(outside, tmp_path, str(tmp_path / "elsewhere")) == []
    (warning,) = warnings_for(outside, tmp_path)
    assert warning.startswith('spec.output.destination.path: "/')
    assert "will not be used, because it leads out of RESULTS_DIR and ALLOWED_OUTPUT_ROOTS" in warning


def test_a_pipeline_says_it_once_a_stage(tmp_path: Path) -> None:
    text = "{apiVersion: mloc/v1, spec: {output: {destination: {path: /away}}, stages: [{name: a, spec: {taskType: echo}}]}}"
    assert len(destination_warnings(read_tasks(text).documents, tmp_path, ())) == 2
