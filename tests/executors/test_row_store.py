"""Rows that are answered once: what is durable, what is torn, and which record stands."""

import hashlib
import json
from pathlib import Path

import pytest

from mloc.executors.durable_files import sync_tree, write_durably
from mloc.executors.rows import row_store
from mloc.executors.rows.row_store import RowStore


def record(index: int, output: str = "x") -> dict[str, object]:
    return {"index": index, "output": output, "usage": {"prompt_tokens": 2, "completion_tokens": 3}}


def outputs(store: RowStore) -> list[tuple[int, str]]:
    return [(row["index"], row["output"]) for row in map(json.loads, store.records())]


def test_rows_come_back_in_the_order_of_the_input_from_memory_and_disk(tmp_path: Path) -> None:
    store = RowStore(tmp_path / "rows", 1)
    store.add(2, record(2, "c"))
    (synced,) = store.sync()
    store.add(0, record(0, "a"))
    assert outputs(store) == [(0, "a"), (2, "c")]
    assert (synced.part, synced.rows) == ("attempt-1.jsonl", 1)


def test_the_digest_is_that_of_the_whole_part(tmp_path: Path) -> None:
    store = RowStore(tmp_path, 1)
    for index in range(3):
        store.add(index, record(index))
        (synced,) = store.sync()
    assert synced.sha256 == hashlib.sha256((tmp_path / "attempt-1.jsonl").read_bytes()).hexdigest()
    assert list(store.sync()) == []


def test_a_later_attempt_finds_what_was_synced_and_no_more(tmp_path: Path) -> None:
    first = RowStore(tmp_path, 1)
    first.add(0, record(0))
    first.add(1, {"index": 1, "error": {"type": "E", "message": "m"}})
    list(first.sync())
    first.add(2, record(2))
    second = RowStore(tmp_path, 2)
    assert [index in second for index in range(3)] == [True, True, False]
    assert (second.completion_tokens, second.errors, len(second)) == (3, 1, 2)


def test_a_torn_line_is_not_a_row(tmp_path: Path) -> None:
    whole = json.dumps(record(0))
    (tmp_path / "attempt-1.jsonl").write_text(f"{whole}\n{whole[:10]}")
    (tmp_path / "attempt-2.jsonl").write_text(f"{whole[:10]}\n")
    assert len(RowStore(tmp_path, 3)) == 1


def test_rows_that_a_disk_spoiled_are_done_again(tmp_path: Path) -> None:
    store = RowStore(tmp_path, 1)
    for index in range(4):
        store.add(index, record(index))
        list(store.sync())
    store.add(4, record(4))
    list(store.sync())
    part = tmp_path / "attempt-1.jsonl"
    spoiled = part.read_bytes().replace(b'{"index":3,"output":"x"', b'{"index":3,"output":"y"')
    part.write_bytes(spoiled)
    assert [index in RowStore(tmp_path, 2) for index in range(5)] == [True, True, True, False, False]


def test_many_rows_go_to_disk_before_they_are_synced_and_out_of_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_store, "YOUNG_BYTES", 200)
    store = RowStore(tmp_path, 1, first=10)
    for index in (19, 13, 10, 11, 18, 12, 14, 17, 16, 15):
        store.add(index, record(index, str(index)))
    assert outputs(store) == [(index, str(index)) for index in range(10, 20)]
    assert [synced.rows for synced in store.sync()] == [10]
    assert outputs(RowStore(tmp_path, 2, first=10)) == outputs(store)
    assert 9 not in store
    assert 20 not in store


def test_the_first_record_of_a_row_stands_also_after_ten_attempts(tmp_path: Path) -> None:
    for attempt in (10, 2):
        store = RowStore(tmp_path / str(attempt), attempt)
        store.add(0, record(0, str(attempt)))
        list(store.sync())
        (tmp_path / f"attempt-{attempt}.jsonl").write_bytes((tmp_path / str(attempt) / f"attempt-{attempt}.jsonl").read_bytes())
    assert outputs(RowStore(tmp_path, 11)) == [(0, "2")]


def test_rows_are_synced_when_they_waited_long_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RowStore(tmp_path / "rows", 1)
    store.add(0, record(0))
    assert list(store.sync_if_due()) == []
    assert not (tmp_path / "rows").exists()
    monkeypatch.setattr(row_store, "SYNC_SEC", 0.0)
    assert [synced.rows for synced in store.sync_if_due()] == [1]


def test_a_durable_file_appears_whole_with_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    assert write_durably(path, [b"a", b"b"]) == (hashlib.sha256(b"ab").hexdigest(), 2)
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_the_digests_of_a_tree_change_with_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "inner" / "a").write_text("1")
    first = sync_tree(tmp_path / "tree")
    assert sync_tree(tmp_path / "tree") == first
    (tmp_path / "tree" / "inner" / "a").write_text("2")
    second = sync_tree(tmp_path / "tree")
    (tmp_path / "tree" / "inner" / "a").rename(tmp_path / "tree" / "b")
    assert first["inner/a"] != second["inner/a"]
    assert sync_tree(tmp_path / "tree") == {"b": second["inner/a"]}
