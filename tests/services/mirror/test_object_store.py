"""A tree in a store: all of it, each file once, the manifest last."""

import uuid
from pathlib import Path

import pytest

fsspec = pytest.importorskip("fsspec")

from mloc.services.mirror.object_store import NoSuchStore, ObjectStore, StoreTrouble  # noqa: E402
from tests.services.mirror.trees import write_tree  # noqa: E402

FILES = {"responses.json": b"{}", "artifacts/model/weights.bin": b"w" * 100_000}


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{uuid.uuid4().hex}/results" if request.param == "memory" else f"file://{tmp_path}/store/results"


def there(url: str) -> dict[str, bytes]:
    fs, root = fsspec.core.url_to_fs(url)
    return {path.partition(root.lstrip("/") + "/")[2]: fs.cat_file(path) for path in fs.find(root)}


def test_a_tree_is_brought_whole_and_only_once(tmp_path: Path, url: str) -> None:
    tree = write_tree(tmp_path / "results", "t1", FILES)
    (tree / ".responses.json.12.partial").write_bytes(b"half of it")
    store = ObjectStore(url)
    assert store.bring(tree, "t1") == 3
    assert there(url) == {f"t1/{name}": content for name, content in {**FILES, "manifest.json": (tree / "manifest.json").read_bytes()}.items()}
    assert store.bring(tree, "t1") == 0


def test_of_a_tree_that_changed_only_what_is_new_is_sent(tmp_path: Path, url: str) -> None:
    store = ObjectStore(url)
    store.bring(write_tree(tmp_path / "results", "t1", FILES), "t1")
    tree = write_tree(tmp_path / "results", "t1", {**FILES, "logs/task.log": b"hello\n"})
    assert store.bring(tree, "t1") == 2
    assert there(url)["t1/logs/task.log"] == b"hello\n"


def test_a_tree_without_its_manifest_is_no_result_there_either(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, store = write_tree(tmp_path / "results", "t1", FILES), ObjectStore(url)
    put = type(store._fs).put_file

    def breaking(self: object, local: str, remote: str, **options: object) -> None:
        if remote.endswith("responses.json"):
            raise ConnectionResetError("the store hung up")
        put(self, local, remote, **options)

    monkeypatch.setattr(type(store._fs), "put_file", breaking)
    with pytest.raises(StoreTrouble, match=r"t1/responses.json .* the store hung up"):
        store.bring(tree, "t1")
    assert "t1/manifest.json" not in there(url)
    monkeypatch.undo()
    store.bring(tree, "t1")
    assert there(url)["t1/responses.json"] == b"{}"


def test_a_store_that_cannot_be_used_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoSuchStore, match="no kind of store"):
        ObjectStore("nonsense://bucket")

    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(NoSuchStore, match=r"pip install 'mloc\[object-storage\]' s3fs"):
        ObjectStore("s3://bucket/results")
