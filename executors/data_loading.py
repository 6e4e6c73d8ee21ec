"""The rows of a task's `data`, in whichever form it states them: prompts to answer, or examples to learn from."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from mloc.core.language.data_spec import DatasetData, GraphTemplateData, JsonlData, ListData, MessagesData, PreferencesData
from mloc.core.language.graph_template import render_graph_template
from mloc.core.language.spec import TaskSpec
from mloc.core.sharding import shard_range
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.hub_dataset import read_hub_dataset
from mloc.executors.row_files import READERS, find_file, read_rows
from mloc.executors.row_split import select_split

RESPONSE_NAMES = ("response", "completion", "output", "answer")

Turn = dict[str, Any]  # {"role", "content"}


class Row(Struct, frozen=True):
    """One row. `index` is its place in the whole task's input, also inside a shard. A row has a prompt, or messages, or a text."""

    index: int
    prompt: str | list[Turn] | None = None
    response: str | list[Turn] | None = None
    messages: list[Turn] | None = None
    text: str | None = None
    metadata: dict[str, Any] = {}
    columns: dict[str, Any] = {}  # as the source has them


def load_rows(spec: TaskSpec, context: Context) -> list[Row]:
    """The rows that this attempt does: all, or those of its shard. Raises ExecutorError where the data is missing or malformed."""
    rows = _load_all(spec, context)
    if context.shard is None:
        return rows
    index, count = context.shard
    span = shard_range(index, count, len(rows))
    return rows[span.start : span.stop]


def _load_all(spec: TaskSpec, context: Context) -> list[Row]:
    match spec.data:
        case ListData(items=items):
            return [_row_of_item(index, item) for index, item in enumerate(items)]
        case MessagesData(messages=messages):
            conversations = [messages] if messages and isinstance(messages[0], Mapping) else messages
            return [Row(index, messages=_turns(turns)) for index, turns in enumerate(conversations)]
        case PreferencesData(preferences=preferences):
            return [_row_of_item(index, dict(preference)) for index, preference in enumerate(preferences)]
        case JsonlData() as data:
            path = _file_of(data.path, data.url, "data.jsonl")
            picked = _pick(read_rows(path), data.shuffle, data.seed, data.max_samples, context.seed)
            names = {"prompt": data.prompt_field, "response": data.response_field, "text": data.text_field, "messages": data.messages_field}
            return [_row_of_columns(index, columns, names, {}) for index, columns in enumerate(picked)]
        case DatasetData() as data:
            return _dataset_rows(data, context)
        case GraphTemplateData() as data:
            return [_row_of_item(index, item) for index, item in enumerate(render_graph_template(data, context.inputs))]
    raise ExecutorError("NoData", "the task has no data; give it one of data.prompts, data.items, data.jsonl, data.messages, data.type: dataset")


def examples(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows as the trainers take them: `{messages}`, `{prompt, completion}` (as turns) or `{text}`, all alike."""
    made = [_example(row) for row in rows]
    shapes = {tuple(example) for example in made}
    if not made:
        raise ExecutorError("NoData", "the data has no rows")
    if len(shapes) > 1:
        raise ExecutorError("BadData", f"the rows are not alike: some have {' and others '.join(str(list(shape)) for shape in sorted(shapes))}")
    return made


def conversation(row: Row) -> list[Turn] | None:
    """The turns that lead up to an answer; None for a bare text."""
    if row.messages is not None:
        return row.messages
    if isinstance(row.prompt, list):
        return row.prompt
    return None if row.prompt is None else [{"role": "user", "content": row.prompt}]


def texts(rows: Iterable[Row]) -> Iterator[str]:
    """Everything that is written in the rows, to train a tokenizer on."""
    for row in rows:
        for part in (row.prompt, row.response, row.messages, row.text):
            if isinstance(part, str):
                yield part
            elif part is not None:
                yield from (turn["content"] for turn in part if isinstance(turn.get("content"), str))


def _example(row: Row) -> dict[str, Any]:
    if row.messages is not None:
        return {"messages": row.messages}
    if row.prompt is not None and row.response is not None:
        answer = [{"role": "assistant", "content": row.response}] if isinstance(row.response, str) else row.response
        return {"prompt": conversation(row), "completion": answer}
    text = row.text if row.text is not None else row.prompt
    if isinstance(text, str):
        return {"text": text}
    raise ExecutorError("BadData", f"row {row.index} has neither text, nor messages, nor a prompt with a response; it has {sorted(row.columns)}")


def _row_of_item(index: int, item: Any) -> Row:
    if isinstance(item, str):
        return Row(index, prompt=item)
    if isinstance(item, Mapping):
        return _row_of_columns(index, dict(item), {}, {})
    if isinstance(item, list | tuple):
        return Row(index, messages=_turns(item))
    return Row(index, prompt=str(item))


def _row_of_columns(index: int, columns: dict[str, Any], names: Mapping[str, str], metadata: Mapping[str, str]) -> Row:
    named = {wanted: columns.get(names.get(wanted, wanted)) for wanted in ("prompt", "response", "messages", "text")}
    if named["response"] is None and "response" not in names:
        named["response"] = next((columns[name] for name in RESPONSE_NAMES if columns.get(name) is not None), None)
    if "metadata" in columns and isinstance(columns["metadata"], dict) and not metadata:
        about = columns["metadata"]
    else:
        about = {name: columns.get(column) for name, column in metadata.items()}
    messages = named["messages"]
    if messages is None and isinstance(columns.get("system"), str) and isinstance(named["prompt"], str):
        named["prompt"] = [{"role": "system", "content": columns["system"]}, {"role": "user", "content": named["prompt"]}]
    return Row(
        index, prompt=_text_or_turns(named["prompt"]), response=_text_or_turns(named["response"]),
        messages=None if messages is None else _turns(messages), text=named["text"], metadata=about, columns=columns,
    )  # fmt: skip


def _text_or_turns(value: Any) -> str | list[Turn] | None:
    if value is None or isinstance(value, str):
        return value
    return _turns(value) if isinstance(value, list | tuple) else str(value)


def _turns(turns: Any) -> list[Turn]:
    if not isinstance(turns, list | tuple) or not all(isinstance(turn, Mapping) and "role" in turn and "content" in turn for turn in turns):
        raise ExecutorError("BadData", f"messages are a list of {{role, content}}, found {str(turns)[:80]}")
    return [dict(turn) for turn in turns]


def _dataset_rows(data: DatasetData, context: Context) -> list[Row]:
    named = data.path or data.url or data.identifier or ""
    if Path(named).suffix.lower() in READERS:
        source: Iterable[dict[str, Any]] = select_split(list(read_rows(_file_of(data.path or data.identifier, data.url, "data"))), data.split)
    else:
        source = read_hub_dataset(data, named)
    names = {"prompt": data.prompt_column or data.column or "prompt", "text": data.text_field or "text"}
    if data.response_column:
        names["response"] = data.response_column
    rows = []
    for index, columns in enumerate(_pick(source, data.shuffle, data.seed, data.max_samples, context.seed)):
        for required in (*data.required_fields, *filter(None, (data.prompt_column, data.column, data.response_column))):
            if columns.get(required) in (None, ""):
                raise ExecutorError("BadData", f"{named}: row {index} has no {required!r}; it has {', '.join(sorted(columns))}")
        rows.append(_row_of_columns(index, columns, names, data.metadata_columns))
    return rows


def _pick(rows: Iterable[dict[str, Any]], shuffle: bool, seed: int | None, limit: int | None, task_seed: int) -> list[dict[str, Any]]:
    """Shuffled by a seed that is the same in every shard and attempt, then cut."""
    picked = list(rows)
    if shuffle:
        random.Random(task_seed if seed is None else seed).shuffle(picked)
    return picked if limit is None else picked[:limit]


def _file_of(path: str | None, url: str | None, where: str) -> Path:
    """The first that is there of path and URL."""
    if path and (not url or Path(path).is_file()):
        return find_file(path)
    if url and url.startswith("file://"):
        return find_file(url.removeprefix("file://"))
    if url and "://" not in url:
        return find_file(url)
    if url:
        raise ExecutorError("NotSupported", f"{where}.url: this version reads files from the worker's disk only, not {url}")
    raise ExecutorError("NoData", f"{where} names neither a path nor a url")
