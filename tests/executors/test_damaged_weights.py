"""Weights that a full disk or a copy that was broken off has damaged are named, and not tried again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mloc.core.language.model_spec import LocalSource, Model
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.models.damage import damaged_file
from mloc.executors.models.model_loading import load_model
from mloc.executors.pooling.encoder import load_encoder

pytestmark = pytest.mark.models


@pytest.mark.parametrize("size", [5, 1000])  # cut off in their header, or behind it
def test_a_file_of_weights_that_was_cut_off_is_named_and_not_tried_again(random_model: Path, tmp_path: Path, size: int) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(random_model, broken)
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    asked = TaskSpec("inference", model=Model(LocalSource(str(broken))))
    context = Context(tmp_path, tmp_path, tmp_path, {}, (), None, None, 0, lambda: False, lambda _: None)
    for load in (lambda: load_model(asked, context), lambda: load_encoder(asked, asked.model.source, context)):
        with pytest.raises(ExecutorError, match="the weights in") as caught:
            load()
        assert caught.value.type == "ModelNotLoaded"
        assert str(file) in caught.value.message
        assert not caught.value.retryable


def test_whole_weights_are_not_called_damaged(random_model: Path) -> None:
    assert damaged_file(str(random_model)) is None
    assert damaged_file("some/model") is None
