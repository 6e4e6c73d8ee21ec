"""What was uploaded for a task becomes a part of its result's tree, whenever it came and wherever a crash cut it off."""

from pathlib import Path

import msgspec
import pytest

from mloc.core.events import ArtifactStored
from mloc.services.results import uploads
from mloc.services.results.manifest import Artifact, Manifest, Origin
from mloc.services.results.tree_cursor import TreeState
from mloc.services.results.tree_fold import TreeFold
from mloc.services.results.trees import Tree, WriteTrees, write_trees

RESULT = b'{"ok":true,"items":[]}'


def upload(root: Path, name: str, content: str = "abc", task: str = "t") -> Path:
    file = root / ".attempts" / task / "0" / "artifacts" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def write(root: Path, *trees: Tree) -> None:
    assert write_trees(root, WriteTrees(trees)).warnings == ()


def success(declared: tuple[str, ...] = ()) -> Tree:
    return Tree(Origin("t", 1, declared=declared), "t", RESULT)


def told() -> Tree:
    """What the log's word of an upload asks for."""
    return Tree(Origin("t"), "t", is_written=True)


def manifest(root: Path) -> Manifest:
    return msgspec.json.decode((root / "t" / "manifest.json").read_bytes(), type=Manifest)


def paths(root: Path) -> list[str]:
    return [file.path for file in manifest(root).files]


def test_an_upload_before_the_result_is_in_its_tree(tmp_path: Path) -> None:
    upload(tmp_path, "sub/a.bin")
    write(tmp_path, success(declared=("sub", "b.bin")))
    assert (tmp_path / "t" / "artifacts" / "sub" / "a.bin").read_text() == "abc"
    assert paths(tmp_path) == ["responses.json", "artifacts/sub/a.bin"]
    assert manifest(tmp_path).artifacts == [Artifact("sub", "present"), Artifact("b.bin", "missing")]
    assert not (tmp_path / ".attempts" / "t").exists()


def test_an_upload_after_the_result_joins_it_and_stays_there(tmp_path: Path) -> None:
    write(tmp_path, success())
    upload(tmp_path, "a.bin")
    write(tmp_path, told())
    write(tmp_path, success(), told())  # again, as after a power cut
    assert paths(tmp_path) == ["responses.json", "artifacts/a.bin"]
    assert (tmp_path / "t" / "artifacts" / "a.bin").read_text() == "abc"


def test_an_upload_waits_for_a_result_and_gives_way_to_one(tmp_path: Path) -> None:
    upload(tmp_path, "a.bin")
    write(tmp_path, told(), Tree(Origin("t", 1), "t", b'{"ok":false}', ok=False))
    assert upload(tmp_path, "a.bin").exists()  # nothing took it
    (tmp_path / "t" / "artifacts").mkdir()
    (tmp_path / "t" / "artifacts" / "a.bin").write_text("the result's own")
    write(tmp_path, success())
    assert (tmp_path / "t" / "artifacts" / "a.bin").read_text() == "the result's own"
    assert uploads.has_uploads(tmp_path, "t")


def test_an_upload_below_what_is_a_file_in_the_tree_stays_where_it_is(tmp_path: Path) -> None:
    upload(tmp_path, "a")
    write(tmp_path, success())
    upload(tmp_path, "a/b")
    upload(tmp_path, "c")
    write(tmp_path, told())
    assert paths(tmp_path) == ["responses.json", "artifacts/a", "artifacts/c"]
    assert (tmp_path / ".attempts" / "t" / "0" / "artifacts" / "a" / "b").read_text() == "abc"


@pytest.mark.parametrize("step", ["rename", "rmdir"])
def test_a_crash_in_the_middle_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    for name in ("a.bin", "b.bin"):
        upload(tmp_path, name)
    with monkeypatch.context() as patch:
        patch.setattr(uploads.os, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, success())
    write(tmp_path, success())
    assert paths(tmp_path) == ["responses.json", "artifacts/a.bin", "artifacts/b.bin"]
    assert {path.name for path in (tmp_path / "t" / "artifacts").iterdir()} == {"a.bin", "b.bin"}
    assert not uploads.has_uploads(tmp_path, "t")


def test_the_log_s_word_of_an_upload_is_a_draft_of_its_tree() -> None:
    fold = TreeFold(TreeState(sharded={"big": 2}), lambda _: {})
    assert [draft.folder for draft in fold.fold("1-0", ArtifactStored(task="t", name="a", sha256="0" * 64))] == ["t"]
    assert fold.fold("2-0", ArtifactStored(task="t", name="a", sha256="0" * 64, attempt=3)) == []  # it moves with its attempt
    assert fold.fold("3-0", ArtifactStored(task="big.s1", name="a", sha256="0" * 64)) == []
