"""When the checkpoints of a training have served."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mloc.core.language.spec import TaskSpec
from mloc.executors.training.model_card import Trained
from mloc.executors.training.trained_weights import save_final


@pytest.mark.parametrize(("left", "are_kept"), [("model.safetensors", False), ("adapter_model.safetensors", False), ("zero_to_fp32.py", True)])
def test_checkpoints_go_only_when_the_final_folder_holds_weights(left: str, are_kept: bool, tmp_path: Path) -> None:
    final, checkpoints = tmp_path / "final_model", tmp_path / "checkpoints"
    (checkpoints / "checkpoint-2").mkdir(parents=True)
    final.mkdir()
    (final / left).write_bytes(b"1")
    tokenizer: Any = SimpleNamespace(save_pretrained=lambda folder: (Path(folder) / "tokenizer.json").write_text("{}"))
    save_final(None, tokenizer, final, checkpoints, Trained("t", "sft", TaskSpec("sft"), "m", 4, 0, 0, {}))
    assert (checkpoints / "checkpoint-2").is_dir() == are_kept
