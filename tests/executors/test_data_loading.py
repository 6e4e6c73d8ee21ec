"""Rows in every form that a task may state them, and what is said of rows that are wrong."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.data_loading import Row, conversation, examples, load_rows, texts
from mloc.executors.row_files import read_rows
from mloc.executors.row_split import select_split


def rows_of(data: dict[str, Any], shard: tuple[int, int] | None = None, inputs: dict[str, Any] | None = None) -> list[Row]:
    spec = msgspec.convert({"taskType": "inference", "data": data}, TaskSpec)
    nowhere = Path("/nowhere")
    context = Context(nowhere, nowhere, nowhere, inputs or {}, (), shard, None, 0, lambda: False, lambda _: None)
    return load_rows(spec, context)


def test_items_are_texts_or_mappings_with_columns() -> None:
    rows = rows_of({"type": "list", "items": ["a", {"prompt": "b", "answer": "c", "metadata": {"k": 1}}, {"text": "d"}]})
    assert [(row.index, row.prompt, row.response, row.text) for row in rows] == [(0, "a", None, None), (1, "b", "c", None), (2, None, None, "d")]
    assert rows[1].metadata == {"k": 1}


def test_messages_are_one_conversation_or_several() -> None:
    turn = {"role": "user", "content": "hello"}
    assert [row.messages for row in rows_of({"type": "messages", "messages": [turn]})] == [[turn]]
    assert [row.messages for row in rows_of({"type": "messages", "messages": [[turn], [turn, turn]]})] == [[turn], [turn, turn]]


def test_a_jsonl_file_is_read_by_the_names_of_its_fields(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('\ufeff{"q": "a", "a": "b"}\n\n{"q": "c", "a": "d"}\n')
    rows = rows_of({"type": "jsonl", "path": str(file), "prompt_field": "q", "response_field": "a"})
    assert [(row.prompt, row.response) for row in rows] == [("a", "b"), ("c", "d")]


def test_a_csv_dataset_is_read_by_columns_split_and_metadata(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('question,reference\n"one, two",1\nthree,2\nfour,3\n')
    data = {"type": "dataset", "path": str(file), "prompt_column": "question", "metadata_columns": {"answer": "reference"}, "split": "train[1:]"}
    assert [(row.index, row.prompt, row.metadata) for row in rows_of(data)] == [(0, "three", {"answer": "2"}), (1, "four", {"answer": "3"})]


def test_shuffling_is_the_same_in_every_shard(tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_text("\n".join(map(str, range(10))))
    data = {"type": "dataset", "path": str(file), "shuffle": True, "seed": 5, "max_samples": 7}
    whole = [row.text for row in rows_of(data)]
    assert whole != sorted(whole)
    assert [row.text for shard in range(3) for row in rows_of(data, (shard, 3))] == whole


def test_a_graph_template_is_one_prompt_with_its_role() -> None:
    template = {"text": "Loss: {loss}", "columns": [{"label": "loss", "node": "train", "path": "loss"}], "options": {"role": "an analyst"}}
    (row,) = rows_of({"type": "graph_template", "template": template}, inputs={"train": {"task_id": "t", "result": {"loss": 0.5}}})
    assert conversation(row) == [{"role": "system", "content": "an analyst"}, {"role": "user", "content": "Loss: 0.5"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n[1]\n', "line 2: expected an object"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": \xff}\n', "line 2: not UTF-8"),
        ("a.csv", b"x,y\n1,2\n3\n", "line 3: expected 2 columns"),
        ("a.json", b"{}", "expected a list of objects"),
        ("a.docx", b"", "is none of .jsonl"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExecutorError) as raised:
        list(read_rows(tmp_path / name))
    assert said in raised.value.message
    assert name in raised.value.message


def test_a_required_column_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "a"}\n')
    with pytest.raises(ExecutorError, match="row 0 has no 'prompt'; it has question"):
        rows_of({"type": "dataset", "path": str(tmp_path / "a.jsonl"), "prompt_column": "prompt"})


def test_examples_take_the_shape_that_their_rows_have() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert examples([Row(0, prompt="a", response="b")]) == [{"prompt": turns[:1], "completion": turns[1:]}]
    assert examples([Row(0, messages=turns)]) == [{"messages": turns}]
    assert examples([Row(0, text="a"), Row(1, prompt="b")]) == [{"text": "a"}, {"text": "b"}]
    assert list(texts([Row(0, messages=turns), Row(1, prompt="c", response="d")])) == ["a", "b", "c", "d"]


@given(st.integers(0, 50), st.integers(1, 8))
def test_shards_together_are_the_whole(count: int, shards: int) -> None:
    data = {"type": "list", "items": [str(i) for i in range(count)]}
    assert [row for shard in range(shards) for row in rows_of(data, (shard, shards))] == rows_of(data)


@pytest.mark.parametrize(
    ("split", "chosen"),
    [("train", range(200)), ("train[:10]", range(10)), ("test[10:20]", range(10, 20)), ("train[:1%]", range(2)), ("train[-5:]", range(195, 200))],
)
def test_a_split_is_a_slice(split: str, chosen: range) -> None:
    assert select_split(list(range(200)), split) == list(chosen)


def test_what_is_no_split_is_refused() -> None:
    with pytest.raises(ExecutorError, match="not understood"):
        select_split([], "train[a:b]")
