"""An attempt's folder becomes the result as a whole, right after a crash at any system call."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mloc.services.results.folders import attempt_folder, sealed
from mloc.services.results.manifest import Origin
from mloc.services.results.publishing import Publish, ResultMissing, publish

ORIGIN = Origin("t", 2, "w", "5-0", {"mloc": "1"}, 7, ("final_model", "*.csv", "nothing"))
CALLS = ("rename", "replace", "fsync", "mkdir", "open")


class Crash(Exception):
    """The process ends here."""


def an_attempt(root: Path, number: int = 2) -> Path:
    folder = root / attempt_folder("t", number)
    (folder / "artifacts" / "final_model").mkdir(parents=True)
    (folder / "artifacts" / "final_model" / "weights.bin").write_bytes(b"w" * 1000)
    (folder / "artifacts" / "table.csv").write_text("a,b")
    (folder / "responses.json").write_bytes(b'{"ok":true,"items":[]}')
    return folder


def test_the_winning_attempt_becomes_the_result_with_every_file_in_the_manifest(tmp_path: Path) -> None:
    # given two attempts, of which the second one won
    an_attempt(tmp_path, 1)
    an_attempt(tmp_path, 2)
    # when it is published
    publish(tmp_path, Publish(ORIGIN, "t"))
    # then only its files are there, described
    manifest = msgspec.json.decode((tmp_path / "t" / "manifest.json").read_bytes())
    assert {file["path"]: file["size"] for file in manifest["files"]} == {
        "artifacts/final_model/weights.bin": 1000, "artifacts/table.csv": 3, "responses.json": 22,
    }  # fmt: skip
    assert manifest["artifacts"] == [
        {"name": "final_model", "state": "present"}, {"name": "*.csv", "state": "present"}, {"name": "nothing", "state": "missing"},
    ]  # fmt: skip
    assert (manifest["attempt"], manifest["worker"], manifest["seed"], manifest["ok"]) == (2, "w", 7, True)
    assert (tmp_path / attempt_folder("t", 1)).is_dir()


def test_publishing_twice_changes_nothing(tmp_path: Path) -> None:
    an_attempt(tmp_path)
    publish(tmp_path, Publish(ORIGIN, "t"))
    before = {path: path.read_bytes() for path in (tmp_path / "t").rglob("*") if path.is_file()}
    publish(tmp_path, Publish(ORIGIN, "t"))
    assert {path: path.read_bytes() for path in (tmp_path / "t").rglob("*") if path.is_file()} == before


def test_an_earlier_failure_of_the_task_is_put_aside(tmp_path: Path) -> None:
    # given a tree that says that the task failed
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "responses.json").write_text('{"ok":false}')
    (tmp_path / "t" / "manifest.json").write_text('{"task_id":"t","ok":false,"attempt":1}')
    an_attempt(tmp_path)
    # when its retry succeeded
    publish(tmp_path, Publish(ORIGIN, "t"))
    # then the result is there, and the failure is not lost
    assert sealed(tmp_path / "t") == ("t", True, 2)
    assert (tmp_path / ".attempts" / "t" / "replaced-1" / "responses.json").read_text() == '{"ok":false}'


def test_an_inline_result_is_written_beside_its_files(tmp_path: Path) -> None:
    (an_attempt(tmp_path) / "responses.json").unlink()
    publish(tmp_path, Publish(ORIGIN, "t", b'{"ok":true}'))
    assert (tmp_path / "t" / "responses.json").read_bytes() == b'{"ok":true}'


def test_a_shards_files_go_into_its_parents_folder(tmp_path: Path) -> None:
    an_attempt(tmp_path)
    publish(tmp_path, Publish(ORIGIN, "parent/shards/3"))
    assert (tmp_path / "parent" / "shards" / "3" / "artifacts" / "table.csv").exists()


def test_a_result_that_is_not_there_says_what_to_check(tmp_path: Path) -> None:
    with pytest.raises(ResultMissing, match="must see the same RESULTS_DIR"):
        publish(tmp_path, Publish(ORIGIN, "t"))


def test_a_crash_at_any_system_call_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total = _calls_of_one_publication(tmp_path / "counted", monkeypatch)
    assert total > 8
    for survived in range(total):
        root = tmp_path / str(survived)
        an_attempt(root)
        (root / "t").mkdir()
        (root / "t" / "manifest.json").write_text('{"task_id":"t","ok":false,"attempt":1}')
        # given a publication that crashes at its n-th call
        with monkeypatch.context() as patch:
            _crash_after(survived, patch)
            with pytest.raises(Crash):
                publish(root, Publish(ORIGIN, "t"))
        # then what readers see is the old tree, none, or the whole new one
        if sealed(root / "t") == ("t", True, 2):
            assert (root / "t" / "artifacts" / "final_model" / "weights.bin").stat().st_size == 1000
        # and the next try completes it
        publish(root, Publish(ORIGIN, "t"))
        assert sealed(root / "t") == ("t", True, 2)
        assert len(msgspec.json.decode((root / "t" / "manifest.json").read_bytes())["files"]) == 3


def _calls_of_one_publication(root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    an_attempt(root)
    (root / "t").mkdir()
    (root / "t" / "manifest.json").write_text('{"task_id":"t","ok":false,"attempt":1}')
    with monkeypatch.context() as patch:
        made = _crash_after(10**9, patch)
        publish(root, Publish(ORIGIN, "t"))
    return made()


def _crash_after(survived: int, patch: pytest.MonkeyPatch) -> Callable[[], int]:
    """From the n-th call on, every call of CALLS raises; gives how many there were."""
    made = 0

    def crashing(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal made
            if made >= survived:
                raise Crash
            made += 1
            return real(*arguments, **named)

        return call

    for name in CALLS:
        patch.setattr(os, name, crashing(getattr(os, name)))
    return lambda: made
