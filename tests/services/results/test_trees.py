"""Trees of inline results and of failures, and the places where tasks want them besides."""

import hashlib
from pathlib import Path

import msgspec
import pytest

from mloc.core.task import Task
from mloc.services.results.destination import Refused, resolve
from mloc.services.results.folders import is_tree_complete, sealed
from mloc.services.results.manifest import Origin
from mloc.services.results.trees import Tree, WriteTrees, write_trees

RESULT = b'{"ok":true,"items":[]}'
FAILURE = b'{"ok":false,"error":{"type":"X","message":"m","retryable":false}}'


def write(root: Path, *trees: Tree, allowed_roots: tuple[str, ...] = ()) -> tuple[str, ...]:
    return write_trees(root, WriteTrees(trees, allowed_roots)).warnings


def success(task: str = "t", attempt: int = 1, **more: object) -> Tree:
    return Tree(Origin(task, attempt, "w"), task, RESULT, **more)  # type: ignore[arg-type]


def failure(task: str = "t", attempt: int = 1) -> Tree:
    return Tree(Origin(task, attempt), task, FAILURE, ok=False)


def test_a_tree_is_the_result_and_a_manifest_that_describes_it(tmp_path: Path) -> None:
    write(tmp_path, success(logs=(("task.log", b"line\n"),)))
    manifest = msgspec.json.decode((tmp_path / "t" / "manifest.json").read_bytes())
    assert (tmp_path / "t" / "responses.json").read_bytes() == RESULT
    assert [file["path"] for file in manifest["files"]] == ["logs/task.log", "responses.json"]
    assert manifest["files"][1]["sha256"] == hashlib.sha256(RESULT).hexdigest()


def test_a_tree_that_a_crash_left_half_written_is_completed(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "responses.json").write_bytes(RESULT[:5])
    write(tmp_path, success())
    assert (tmp_path / "t" / "responses.json").read_bytes() == RESULT
    assert sealed(tmp_path / "t") == ("t", True, 1)


def test_a_result_replaces_a_failure_but_a_failure_never_a_result(tmp_path: Path) -> None:
    write(tmp_path, failure(), success(attempt=2), failure(attempt=3))
    assert (tmp_path / "t" / "responses.json").read_bytes() == RESULT
    assert sealed(tmp_path / "t") == ("t", True, 2)


def test_logs_are_added_to_a_tree_that_was_published_with_files(tmp_path: Path) -> None:
    write(tmp_path, success())
    write(tmp_path, Tree(Origin("t", 1), "t", is_written=True, logs=(("task.log", b"x"),)))
    paths = {file["path"] for file in msgspec.json.decode((tmp_path / "t" / "manifest.json").read_bytes())["files"]}
    assert paths == {"responses.json", "logs/task.log"}


def test_a_tree_is_complete_only_for_the_outcome_that_the_task_has_now(tmp_path: Path) -> None:
    write(tmp_path, failure())
    assert is_tree_complete(tmp_path, Task("t", phase="dead_lettered"))
    assert not is_tree_complete(tmp_path, Task("t", phase="published", result_attempt=2))
    write(tmp_path, success(attempt=2))
    assert is_tree_complete(tmp_path, Task("t", phase="published", result_attempt=2))
    assert not is_tree_complete(tmp_path, Task("other", phase="published"))


def test_what_cannot_be_one_tree_is_warned_about_and_the_others_are_written(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("a file where a folder should be")
    warnings = write(tmp_path, success("bad"), success("good"))
    assert len(warnings) == 1
    assert "bad" in warnings[0]
    assert sealed(tmp_path / "good") is not None


def test_a_destination_gets_the_files_too(tmp_path: Path) -> None:
    assert write(tmp_path, success(destination="exports/mine")) == ()
    assert (tmp_path / "exports" / "mine" / "responses.json").read_bytes() == RESULT
    # and a second run of the same file replaces it there, but not under the first task's id
    other = b'{"ok":true,"items":[1]}'
    write(tmp_path, Tree(Origin("u", 1), "u", other, destination="exports/mine"))
    assert (tmp_path / "exports" / "mine" / "responses.json").read_bytes() == other
    assert (tmp_path / "t" / "responses.json").read_bytes() == RESULT


OTHERS = (".attempts/x", ".blobs/ab/x", ".uploads", "other", "other/artifacts", "link/x")


@pytest.mark.parametrize("path", ["../elsewhere", "a/../../b", "/etc/mloc", ".", "", *OTHERS])
def test_a_destination_that_is_not_safe_is_refused_and_the_default_folder_has_the_result(tmp_path: Path, path: str) -> None:
    root = tmp_path / "results"
    root.mkdir()
    write(root, success("other"))
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(Refused):
        resolve(root, path, (), "t")
    if path:
        assert "is not used" in write(root, success(destination=path))[0]
    assert (root / "t").exists() == bool(path)


def test_an_absolute_destination_is_used_where_it_is_allowed(tmp_path: Path) -> None:
    root, outside = tmp_path / "results", tmp_path / "outside"
    root.mkdir()
    assert write(root, success(destination=str(outside / "x")), allowed_roots=(str(outside),)) == ()
    assert (outside / "x" / "manifest.json").exists()
    assert write(root, success("u", destination=str(root / "inside"))) == ()
    assert (root / "inside" / "manifest.json").exists()
