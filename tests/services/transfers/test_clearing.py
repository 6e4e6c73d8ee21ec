"""What attempts left on a worker that shares no folder goes in time, and nothing else does."""

import os
import time
from pathlib import Path

import pytest

from mloc.services.transfers.clearing import OLD_SEC, clear, mark


def attempt(root: Path, task: str) -> None:
    for name in ("artifacts/w", "rows.jsonl"):
        file = root / ".attempts" / task / "1" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")


def grow_old(folder: Path, age_sec: float) -> None:
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - age_sec,) * 2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for task in ("old", "running", "young", "shared"):
        attempt(tmp_path, task)
        if task != "shared":
            mark(tmp_path, task)
        grow_old(tmp_path / ".attempts" / task, OLD_SEC + 60)
    (tmp_path / "published").mkdir()
    grow_old(tmp_path / "published", OLD_SEC + 60)
    (tmp_path / ".attempts" / "young" / "1" / "artifacts" / "w").write_text("of this hour")
    return tmp_path


def test_only_what_is_marked_old_and_not_in_use_goes(root: Path) -> None:
    assert clear(root, lambda: {"running"}) == 1
    assert sorted(folder.name for folder in (root / ".attempts").iterdir()) == ["running", "shared", "young"]
    assert (root / "published").is_dir()


def test_in_a_folder_without_attempts_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert clear(tmp_path / "none", set) == 0
