"""The tool `files` reaches nothing outside of its folder."""

import os
from pathlib import Path

import pytest

pytest.importorskip("langchain_core", reason='agents need langchain: pip install "mloc[agent]"')

from mloc.executors.agents.tools.files import MOST_BYTES, listed, read, write

pytestmark = pytest.mark.extras

OUT = ["../secret", "a/../../secret", "/etc/passwd", "", ".", "link", "linked/secret", "..", "down/../../secret"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    box = tmp_path / "box"
    (box / "down").mkdir(parents=True)
    (box / "link").symlink_to(tmp_path / "secret")
    (box / "linked").symlink_to(tmp_path)
    os.mkfifo(box / "pipe")
    return box


def test_files_are_written_listed_and_read(folder: Path) -> None:
    assert write(folder, "notes/first.txt", "Lima é") == 7
    assert read(folder, "./notes/first.txt") == "Lima é"
    assert listed(folder) == [("notes/first.txt", 7)]


@pytest.mark.parametrize("name", OUT)
def test_nothing_outside_is_read_or_written(folder: Path, name: str) -> None:
    with pytest.raises(OSError, match=r".+"):
        read(folder, name)
    with pytest.raises(OSError, match=r".+"):
        write(folder, name, "mine now")
    assert (folder.parent / "secret").read_text() == "secret"


def test_a_pipe_is_no_file_and_nobody_waits_for_it(folder: Path) -> None:
    with pytest.raises(PermissionError, match="no ordinary file"):
        read(folder, "pipe")
    with pytest.raises(OSError, match=r".+"):
        write(folder, "pipe", "x")


def test_the_folder_does_not_grow_without_bound(folder: Path) -> None:
    with pytest.raises(PermissionError, match="the folder is full"):
        write(folder, "big", "x" * (MOST_BYTES + 1))
