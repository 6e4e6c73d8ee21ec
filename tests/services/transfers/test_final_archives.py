"""What is said in a result after its executor wrote it: archives, URLs, what was not sent."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloc.services.results.row_lines import is_row_lines, rows_of, with_members, without_rows
from mloc.services.transfers.final_archives import add_archives, add_to_result

FINAL = "/results/t1"
names = st.text(min_size=1, max_size=8).filter(lambda name: name != "items")
members = st.dictionaries(names, st.one_of(st.integers(-5, 5), st.text(max_size=5), st.lists(st.integers(0, 9), max_size=3)), max_size=4)


def write_lines(path: Path, head: dict[str, Any], rows: list[Any], tail: dict[str, Any]) -> Path:
    """A large result as executors write it."""
    begin = b"".join(msgspec.json.encode(name) + b":" + msgspec.json.encode(value) + b"," for name, value in head.items())
    end = b"".join(b"," + msgspec.json.encode(name) + b":" + msgspec.json.encode(value) for name, value in tail.items())
    lines = b",".join(b"\n" + msgspec.json.encode(row) for row in rows)
    path.write_bytes(b"{" + begin + b'"items":[' + lines + b"\n]" + end + b"}")
    return path


def trained(folder: Path) -> Path:
    weights = folder / "artifacts" / "final_model"
    weights.mkdir(parents=True)
    (weights / "config.json").write_text("{}")
    (folder / "responses.json").write_text(json.dumps({"ok": True, "final_model_path": f"{FINAL}/artifacts/final_model"}))
    return folder


def test_rows_keep_their_lines_when_something_is_added_to_their_result(tmp_path: Path) -> None:
    # given a result in lines that has a training set
    export = {"path": f"{FINAL}/artifacts/set.jsonl", "rows": 2}
    rows = [{"index": number, "output": "]\n"} for number in range(3)]
    path = write_lines(tmp_path / "responses.json", {"ok": True, "model": "m"}, rows, {"jsonl_export": export, "usage": {"total_tokens": 1}})
    # when the URL of the set is put in, and what was not sent
    add_archives(tmp_path, FINAL, (), lambda name: f"http://api/{name}", always=True)
    delivered = add_to_result(tmp_path, {"artifacts_not_sent": [{"name": "a"}]})
    # then it says both, and each row still has a line of its own
    assert delivered is not None
    assert delivered.size_bytes == path.stat().st_size
    assert is_row_lines(path)
    assert json.loads(path.read_text()) == {
        "ok": True, "model": "m", "items": rows, "usage": {"total_tokens": 1}, "artifacts_not_sent": [{"name": "a"}],
        "jsonl_export": {**export, "url": "http://api/artifacts/set.jsonl"},
    }  # fmt: skip
    assert [json.loads(row) for row in rows_of(path, {})] == rows


def test_a_training_set_of_a_worker_elsewhere_is_named_where_others_find_it(tmp_path: Path) -> None:
    export = {"path": f"{FINAL}/artifacts/set.jsonl", "url": "/api/v1/results/t/files/artifacts/set.jsonl", "rows": 2}
    path = write_lines(tmp_path / "responses.json", {"ok": True}, [{"index": 0}], {"jsonl_export": export})
    add_archives(tmp_path, FINAL, (), None, always=True, there="/of/the/api/t")
    assert json.loads(path.read_text())["jsonl_export"] == {**export, "path": "/of/the/api/t/artifacts/set.jsonl"}


def test_a_result_of_many_rows_is_changed_in_little_memory(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "responses.json", {"ok": True}, [{"index": number, "output": "x" * 1000} for number in range(20_000)], {})
    size = path.stat().st_size
    tracemalloc.start()
    add_to_result(tmp_path, {"more": 1})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size == size + len(',"more":1')
    assert peak < size / 4


@given(members, st.lists(st.dictionaries(names, st.text(max_size=5)), max_size=4), members, members)
def test_members_are_added_or_replaced_and_nothing_else_changes(
    tmp_path_factory: pytest.TempPathFactory, head: dict[str, Any], rows: list[Any], tail: dict[str, Any], more: dict[str, Any]
) -> None:
    tail = {name: value for name, value in tail.items() if name not in head}
    path = write_lines(tmp_path_factory.mktemp("r") / "responses.json", head, rows, tail)
    changed = path.with_name("changed.json")
    changed.write_bytes(b"".join(with_members(path, more)))
    assert msgspec.json.decode(changed.read_bytes()) == {**head, "items": rows, **tail, **more}
    assert is_row_lines(changed)
    assert {name: msgspec.json.decode(value) for name, value in without_rows(changed).items()} == {**head, **tail, **more}


def test_an_archive_is_made_where_it_was_asked_for_and_named_with_its_url(tmp_path: Path) -> None:
    # given a training that did not ask for it, in a shared folder
    folder = trained(tmp_path)
    assert add_archives(folder, FINAL, ("final_model",), None, always=False) is None
    assert not (folder / "artifacts" / "final_model.tar.gz").exists()
    # when one did
    delivered = add_archives(folder, FINAL, ("final_model_archive",), lambda name: f"http://api/{name}", always=False)
    # then it is there, and doing it again changes nothing
    assert delivered is not None
    result = json.loads((folder / "responses.json").read_text())
    assert result["final_model_archive"] == f"{FINAL}/artifacts/final_model.tar.gz"
    assert result["final_model_archive_url"] == "http://api/artifacts/final_model.tar.gz"
    assert (folder / "artifacts" / "final_model.tar.gz").is_file()
    assert add_archives(folder, FINAL, ("final_model_archive",), lambda name: f"http://api/{name}", always=False) is None


def test_what_is_no_json_object_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "responses.json").write_text("[1]")
    with pytest.raises(msgspec.MsgspecError):
        add_archives(tmp_path, FINAL, (), None, always=True)
