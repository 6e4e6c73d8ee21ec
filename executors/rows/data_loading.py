"""The rows of a task's `data`, in whichever form it states them: prompts to answer, or examples to learn from.

Rows of files and datasets are read as they are needed: a million of them are never in memory together.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from mloc.core.language.data_spec import DatasetData, GraphTemplateData, JsonlData, ListData, MessagesData, PreferencesData
from mloc.core.language.graph_template import render_graph_template
from mloc.core.language.spec import TaskSpec
from mloc.core.sharding import shard_range
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.rows.hub_dataset import hub_table
from mloc.executors.rows.row_files import READERS, file_table, find_file
from mloc.executors.rows.row_split import parts_of, select_split
from mloc.executors.rows.rows import PARTS, RESPONSE_NAMES, ColumnNames, Row, conversation, one_response, row_of_columns, row_of_item
from mloc.executors.rows.tables import Columns, Malformed, Table, limited, shuffled, shuffled_stream

LOOKED_AT = 64  # first rows, to see which columns there are

_WHOLE = ("prompt", "messages", "text", "query")  # one of these is what a row asks


class Rows(Struct, frozen=True):
    """Rows `first` to `first + count` of a task's input; each iteration reads them anew."""

    rows: list[Any] | Table
    names: ColumnNames
    first: int
    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def total(self) -> int:
        """Rows of the whole input, also in a shard."""
        return len(self.rows) if isinstance(self.rows, list) else self.rows.count()

    def __iter__(self) -> Iterator[Row]:
        if isinstance(self.rows, list):
            yield from (row_of_item(index, self.rows[index]) for index in range(self.first, self.first + self.count))
            return
        for index, columns in enumerate(self.rows.read(self.first, self.first + self.count), self.first):
            yield row_of_columns(index, columns, self.names)


def load_rows(spec: TaskSpec, context: Context) -> Rows:
    """The rows that this attempt does: all, or those of its shard. Raises ExecutorError where the data is missing or its columns are wrong."""
    rows, names = _source(spec, context)
    count = len(rows) if isinstance(rows, list) else rows.count()
    span = range(count) if context.shard is None else shard_range(*context.shard, count)
    return Rows(rows, names, span.start, len(span))


def examples(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows as the trainers take them: `{messages}`, `{prompt, completion}` (as turns) or `{text}`, all alike."""
    made = [_example(row) for row in rows]
    shapes = {tuple(example) for example in made}
    if not made:
        raise ExecutorError("NoData", "the data has no rows")
    if len(shapes) > 1:
        raise ExecutorError("BadData", f"the rows are not alike: some have {' and others '.join(str(list(shape)) for shape in sorted(shapes))}")
    return made


def _example(row: Row) -> dict[str, Any]:
    if row.problem:
        raise ExecutorError("BadData", f"row {row.index}: {row.problem}")
    if row.messages is not None:
        return {"messages": row.messages}
    try:
        response = one_response(row)
    except ExecutorError as error:
        raise ExecutorError("BadData", f"row {row.index}: {error.message}") from error
    if row.prompt is not None and response is not None:
        answer = [{"role": "assistant", "content": response}] if isinstance(response, str) else response
        return {"prompt": conversation(row), "completion": answer}
    text = row.text if row.text is not None else row.prompt
    if isinstance(text, str):
        return {"text": text}
    raise lacking(row, "a text, messages, or a prompt with a response")


def lacking(row: Row, wanted: str) -> ExecutorError:
    """That a row has other columns than its training learns from."""
    return ExecutorError("WrongColumns", f"row {row.index} needs {wanted}; it has {', '.join(sorted(row.columns)) or 'nothing'}")


def _source(spec: TaskSpec, context: Context) -> tuple[list[Any] | Table, ColumnNames]:
    match _on_this_disk(spec.data, context):
        case ListData(items=items):
            return list(items), ColumnNames()
        case MessagesData(messages=messages):
            return [messages] if messages and isinstance(messages[0], dict) else list(messages), ColumnNames()
        case PreferencesData(preferences=preferences):
            return list(preferences), ColumnNames()
        case GraphTemplateData() as data:
            return list(render_graph_template(data, context.inputs)), ColumnNames()
        case JsonlData() as data:
            path = _file_of(data.path, data.url, "data.jsonl")
            return _checked(_picked(file_table(path), data, context.seed), _jsonl_names(data), str(path), spec)
        case DatasetData() as data:
            named = data.path or data.url or data.identifier or ""
            table = _with_fields(_dataset_table(data, named), data.fields)
            return _checked(_picked(table, data, context.seed), _dataset_names(data), named, spec)
    raise ExecutorError("NoData", "the task has no data; give it one of data.prompts, data.items, data.jsonl, data.messages, data.type: dataset")


def _on_this_disk(data: Any, context: Context) -> Any:
    """The data with the file that was fetched for it in the place of what its spec names."""
    names = [getattr(data, name, None) for name in ("path", "url", "identifier")] if context.fetched else []
    local = next((context.fetched[name] for name in names if name in context.fetched), None)
    return data if local is None else replace(data, path=local, url=None)


def _dataset_table(data: DatasetData, named: str) -> Table:
    if Path(named).suffix.lower() not in READERS:
        return hub_table(data, named)
    path = _file_of(data.path or data.identifier, data.url, "data")
    names = {part.name for part in parts_of(data.split)}
    if len(names) > 1:
        raise ExecutorError("BadSplit", f"data.split {data.split!r}: the file {path} is one split, and this names {len(names)}")
    return select_split(lambda _: file_table(path, data.separator), data.split)


def _picked(table: Table, data: DatasetData | JsonlData, task_seed: int) -> Table:
    """Shuffled by a seed that is the same in every shard and attempt, then cut."""
    if data.shuffle:
        seed = task_seed if data.seed is None else data.seed
        is_stream = isinstance(data, DatasetData) and data.streaming
        table = shuffled_stream(table, seed, data.buffer_size) if is_stream and isinstance(data, DatasetData) else shuffled(table, seed)
    return table if data.max_samples is None else limited(table, data.max_samples)


def _with_fields(table: Table, fields: Any) -> Table:
    """Only the columns that are to be kept, under their new names."""
    if not fields:
        return table
    kept = dict(fields) if isinstance(fields, dict) else {name: name for name in fields}
    first = _columns_in(table)
    for column in kept.values():
        _must_exist(column, first, "data.fields")

    def read(start: int, stop: int | None) -> Iterator[Columns | Malformed]:
        for row in table.read(start, stop):
            yield row if isinstance(row, Malformed) else {name: row[column] for name, column in kept.items() if column in row}

    return Table(read, table.count)


def _jsonl_names(data: JsonlData) -> ColumnNames:
    default = JsonlData()
    of = {part: getattr(data, f"{part}_field") for part in PARTS}
    return ColumnNames(of, tuple(part for part, name in of.items() if name != getattr(default, f"{part}_field")))


def _dataset_names(data: DatasetData) -> ColumnNames:
    given = {
        "prompt": data.prompt_column or data.column, "response": data.response_column, "text": data.text_field,
        "chosen": data.chosen_column, "rejected": data.rejected_column,
    }  # fmt: skip
    of = {part: name for part, name in given.items() if name}
    asked = [of[part] for part in ("prompt", "response", "chosen", "rejected") if part in of]
    return ColumnNames(of, tuple(of), data.metadata_columns, tuple(dict.fromkeys((*data.required_fields, *asked))))


def _checked(table: Table, names: ColumnNames, source: str, spec: TaskSpec) -> tuple[Table, ColumnNames]:
    """The same, once every column that the task names was seen. Raises ExecutorError with the columns that there are."""
    columns = _columns_in(table)
    if not columns:
        return table, names
    for part in names.stated:
        _must_exist(names.of[part], columns, source)
    for column in (*names.metadata.values(), *names.required):
        _must_exist(column, columns, source)
    suffix = "field" if isinstance(spec.data, JsonlData) else "column"
    known = {names.of.get(part, part) for part in (*_WHOLE, "chosen")}
    if spec.task_type in ("dpo", "reward") and {names.of.get(part, part) for part in ("chosen", "rejected")}.isdisjoint(columns):
        said = f"{source} has no pairs of answers in columns chosen and rejected; it has {', '.join(columns)}. Say which they are: "
        raise ExecutorError("WrongColumns", f"{said}data.chosen_{suffix}, data.rejected_{suffix}")
    if spec.task_type != "echo" and known.isdisjoint(columns):
        usual = ", ".join(dict.fromkeys((*_WHOLE, *RESPONSE_NAMES[:1])))
        said = f"{source} has none of the columns {usual}; it has {', '.join(columns)}. Say which is the prompt: "
        raise ExecutorError("WrongColumns", f"{said}data.prompt_{suffix}")
    return table, names


def _columns_in(table: Table) -> list[str]:
    """All columns of the first rows; empty where there are none."""
    return list(dict.fromkeys(name for row in table.read(0, LOOKED_AT) if isinstance(row, dict) for name in row))


def _must_exist(column: str, columns: list[str], source: str) -> None:
    if columns and column not in columns:
        near = difflib.get_close_matches(column, columns, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ExecutorError("WrongColumns", f"{source} has no column {column!r}; it has {', '.join(columns)}{hint}")


def _file_of(path: str | None, url: str | None, where: str) -> Path:
    """The first that is there of path and URL."""
    if path and (not url or Path(path).is_file()):
        return find_file(path)
    if url and url.startswith("file://"):
        return find_file(url.removeprefix("file://"))
    if url and "://" not in url:
        return find_file(url)
    if url:
        raise ExecutorError("NoData", f"{where}.url: {url} is neither a file nor an http address")
    raise ExecutorError("NoData", f"{where} names neither a path nor a url")
