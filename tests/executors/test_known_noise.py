"""What nobody can do anything about is no line of a task's log; everything else is."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings

import pytest

from mloc.executors.known_noise import silence_known_noise


def test_only_the_named_warning_is_silent() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        silence_known_noise()
        warnings.warn("TRL currently supports vLLM versions from 0.1 to 0.2. You have version 9.", stacklevel=1)
        warnings.warn("TRL will drop this setting in the next version", stacklevel=1)
    assert [str(one.message) for one in said] == ["TRL will drop this setting in the next version"]


def test_a_library_that_says_another_thing_by_the_same_logger_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    silence_known_noise()
    logger = logging.getLogger("vllm.triton_utils.importing")
    logger.propagate = True
    logger.warning("Triton is installed, but doesn't include CPU backend. Disabling Triton.")
    logger.warning("Triton is broken")
    assert [record.getMessage() for record in caplog.records] == ["Triton is broken"]


@pytest.mark.models
def test_trl_says_nothing_of_the_version_of_vllm() -> None:
    asked = "from mloc.executors.known_noise import silence_known_noise as silence; silence(); import trl.import_utils as at; at.is_vllm_available()"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert "supports vLLM" not in done.stderr
