"""Rows in every form that a task may state them, and what is said of rows that are wrong."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.rows.data_loading import examples, load_rows
from mloc.executors.rows.row_files import read_rows
from mloc.executors.rows.row_split import select_split
from mloc.executors.rows.rows import Row, conversation, texts
from mloc.executors.rows.tables import Table, list_table


def rows_of(
    data: dict[str, Any], shard: tuple[int, int] | None = None, inputs: dict[str, Any] | None = None, task_type: str = "inference"
) -> list[Row]:
    spec = msgspec.convert({"taskType": task_type, "data": data}, TaskSpec)
    nowhere = Path("/nowhere")
    context = Context(nowhere, nowhere, nowhere, inputs or {}, (), shard, None, 0, lambda: False, lambda _: None)
    return list(load_rows(spec, context))


def numbers(count: int) -> Table:
    return list_table([{"n": number} for number in range(count)])


def test_items_are_texts_or_mappings_with_columns() -> None:
    rows = rows_of({"type": "list", "items": ["a", {"prompt": "b", "answer": "c", "metadata": {"k": 1}}, {"text": "d"}]})
    assert [(row.index, row.prompt, row.response, row.text) for row in rows] == [(0, "a", None, None), (1, "b", "c", None), (2, None, None, "d")]
    assert rows[1].metadata == {"k": 1}


def test_several_right_answers_are_no_chat_turns() -> None:
    turns = [{"role": "assistant", "content": "d"}]
    listed = rows_of({"type": "list", "items": [{"prompt": "a", "answer": ["b", 7]}, {"prompt": "c", "response": turns}]})
    assert [(row.prompt, row.response, row.answers, row.problem) for row in listed] == [("a", None, ("b", "7"), ""), ("c", turns, (), "")]
    assert list(texts(listed[:1])) == ["a", "b", "7"]


def test_a_training_does_not_learn_from_a_row_with_several_answers_as_if_it_had_none() -> None:
    with pytest.raises(ExecutorError, match="row 0: the row has 2 responses in a list") as raised:
        examples([Row(0, prompt="a", answers=("b", "c"))])
    assert raised.value.type == "BadData"


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
    with pytest.raises(ExecutorError, match="no column 'questoin'; it has question; did you mean 'question'") as raised:
        rows_of({"type": "dataset", "path": str(tmp_path / "a.jsonl"), "prompt_column": "questoin"})
    assert not raised.value.retryable


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
    [
        ("train", [*range(200)]), ("train[:10]", [*range(10)]), ("test[10:20]", [*range(10, 20)]), ("train[:1%]", [0, 1]),
        ("train[-5:]", [*range(195, 200)]), ("train[150:]", [*range(150, 200)]), ("train[:2]+test[-1:]", [0, 1, 199]),
        ("train[198:500] + train[:1]", [198, 199, 0]), ("train[50%:51%]", [100, 101]),
    ],
)  # fmt: skip
def test_a_split_is_a_slice_or_several(split: str, chosen: list[int]) -> None:
    table = select_split(lambda _: numbers(200), split)
    assert [row["n"] for row in table.read(0, None)] == chosen
    assert table.count() == len(chosen)


def test_what_is_no_split_is_refused() -> None:
    with pytest.raises(ExecutorError, match="not understood"):
        select_split(lambda _: numbers(0), "train[a:b]")


@given(st.integers(0, 30), st.sampled_from(["a", "a[3:]", "a[:7]+b[2:9]", "a[-4:]+b[50%:]+a[:1]"]), st.integers(0, 20), st.integers(0, 20))
def test_a_range_of_a_split_is_that_range_of_its_rows(count: int, split: str, start: int, length: int) -> None:
    table = select_split(lambda _: numbers(count), split)
    whole = list(table.read(0, None))
    assert list(table.read(start, start + length)) == whole[start : start + length]


def test_a_line_that_is_no_row_is_one_with_a_problem_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "a"}\n[1]\n{"prompt": \xff}\n{"messages": "hello"}\n{"prompt": "b"}\n')
    rows = rows_of({"type": "jsonl", "path": str(tmp_path / "a.jsonl")})
    assert [row.prompt for row in rows] == ["a", None, None, None, "b"]
    for row, said in zip(rows[1:4], ("line 2: expected an object", "line 3: not UTF-8", "messages are a list"), strict=True):
        assert said in row.problem
    with pytest.raises(ExecutorError, match=r"row 1: .*line 2"):
        examples(rows)


def test_a_file_without_anything_to_ask_is_refused_with_the_columns_that_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nx,y\n")
    with pytest.raises(ExecutorError, match=r"it has question, answer\. Say which is the prompt: data.prompt_column"):
        rows_of({"type": "dataset", "path": str(tmp_path / "a.csv")})
    assert rows_of({"type": "dataset", "path": str(tmp_path / "a.csv")}, task_type="echo")[0].columns == {"question": "x", "answer": "y"}


def test_pairs_that_are_nowhere_are_asked_for_by_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "q", "good": "x", "bad": "y"}\n')
    named = {"type": "jsonl", "path": str(tmp_path / "a.jsonl")}
    with pytest.raises(ExecutorError, match=r"it has prompt, good, bad\. Say which they are: data\.chosen_field, data\.rejected_field"):
        rows_of(named, task_type="dpo")
    assert rows_of({**named, "chosen_field": "good", "rejected_field": "bad"}, task_type="dpo")[0].chosen == "x"
    assert rows_of({**named, "prompt_field": "prompt"})[0].prompt == "q"


def test_a_separator_fields_and_required_fields_are_honoured(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q;a;rest\none;1;x\ntwo;;y\n")
    data = {"type": "dataset", "path": str(tmp_path / "a.csv"), "separator": ";", "required_fields": ["answer"]}
    data["fields"] = {"prompt": "q", "answer": "a"}
    rows = rows_of(data)
    assert rows[0].columns == {"prompt": "one", "answer": "1"}
    assert [row.problem for row in rows] == ["", "the row's answer is empty"]
    with pytest.raises(ExecutorError, match="no column 'z'"):
        rows_of({**data, "fields": ["z"]})


def test_preferences_are_found_in_files_under_the_names_that_the_task_gives(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "p", "good": "g", "bad": "b"}\n')
    for data in (
        {"type": "jsonl", "path": str(tmp_path / "a.jsonl"), "chosen_field": "good", "rejected_field": "bad"},
        {"type": "dataset", "path": str(tmp_path / "a.jsonl"), "chosen_column": "good", "rejected_column": "bad"},
        {"type": "preferences", "preferences": [{"prompt": "p", "chosen": "g", "rejected": "b"}]},
    ):
        (row,) = rows_of(data)
        assert (row.prompt, row.chosen, row.rejected) == ("p", "g", "b")


def test_a_stream_is_shuffled_within_its_buffer_and_the_same_in_every_shard(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(map(str, range(100))))
    data = {"type": "dataset", "path": str(tmp_path / "a.txt"), "shuffle": True, "streaming": True, "buffer_size": 10, "seed": 1}
    whole = [int(str(row.text)) for row in rows_of(data)]
    assert sorted(whole) == list(range(100)) != whole
    assert all(number <= place + 10 for place, number in enumerate(whole))
    assert [int(str(row.text)) for shard in range(3) for row in rows_of(data, (shard, 3))] == whole


@pytest.mark.models
def test_parquet_files_and_saved_datasets_are_read(tmp_path: Path) -> None:
    import datasets

    made = datasets.Dataset.from_list([{"prompt": f"p{i}"} for i in range(10)])
    made.to_parquet(str(tmp_path / "a.parquet"))
    datasets.DatasetDict({"train": made, "test": made.select([9])}).save_to_disk(str(tmp_path / "saved"))
    assert [row.prompt for row in rows_of({"type": "dataset", "path": str(tmp_path / "a.parquet"), "split": "train[2:4]"})] == ["p2", "p3"]
    saved = {"type": "dataset", "path": str(tmp_path / "saved"), "split": "train[:20%]+test"}
    assert [row.prompt for row in rows_of(saved)] == ["p0", "p1", "p9"]
    assert [row.prompt for row in rows_of(saved, (1, 2))] == ["p1", "p9"]
    with pytest.raises(ExecutorError, match="it has train, test"):
        rows_of({**saved, "split": "dev"})


@pytest.mark.models
def test_a_hub_dataset_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ExecutorError, match=r"'nobody/nothing' could not be read \(HF_HUB_OFFLINE is set") as raised:
        rows_of({"type": "dataset", "identifier": "nobody/nothing"})
    assert not raised.value.retryable
