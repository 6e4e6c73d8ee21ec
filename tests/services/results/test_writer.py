"""What a result writer answers where a disk does not do what it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from mloc.services.results.orders import Failed
from mloc.services.results.trees import WriteTrees
from mloc.services.results.writer import carry_out


def test_a_full_disk_is_named_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")  # a write names no file

    monkeypatch.setattr("mloc.services.results.writer.write_trees", full)
    assert carry_out(tmp_path, WriteTrees(())) == Failed(f"{tmp_path}: No space left on device")
