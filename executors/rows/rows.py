"""One row of a task's input, made from an item of the file or from the columns of a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from mloc.core.language.content_parts import is_parts
from mloc.executors.contract import ExecutorError
from mloc.executors.rows.tables import Columns, Malformed

RESPONSE_NAMES = ("response", "completion", "output", "answer")
PARTS = ("prompt", "response", "messages", "text", "chosen", "rejected", "query")

Turn = dict[str, Any]  # {"role", "content"}


class Row(Struct, frozen=True):
    """One row. `index` is its place in the whole task's input, also inside a shard. A row has a prompt, or messages, or a text."""

    index: int
    prompt: str | list[Turn] | None = None
    response: str | list[Turn] | None = None
    answers: tuple[str, ...] = ()  # several texts in the place of a response, any of which is right
    messages: list[Turn] | None = None
    text: str | None = None
    chosen: str | list[Turn] | None = None
    rejected: str | list[Turn] | None = None
    metadata: dict[str, Any] = {}
    columns: dict[str, Any] = {}  # as the source has them
    problem: str = ""  # why it cannot be worked on

    @property
    def asked(self) -> Any:
        """What a result shows as the row's prompt."""
        return self.messages or self.prompt or self.text


class ColumnNames(Struct, frozen=True):
    """Which column is which part of a row, by the parts' names; `stated` are those that the task names itself."""

    of: Mapping[str, str] = {}
    stated: tuple[str, ...] = ()
    metadata: Mapping[str, str] = {}
    required: tuple[str, ...] = ()


def conversation(row: Row) -> list[Turn] | None:
    """The turns that lead up to an answer; None for a bare text."""
    if row.messages is not None:
        return row.messages
    if isinstance(row.prompt, list):
        return row.prompt
    return None if row.prompt is None else [{"role": "user", "content": row.prompt}]


def one_response(row: Row) -> str | list[Turn] | None:
    """What is learned or scored as the row's answer. Raises ExecutorError where it has several."""
    if row.answers:
        raise ExecutorError("SeveralAnswers", f"the row has {len(row.answers)} responses in a list; one text is needed here (or name another column)")
    return row.response


def texts(rows: Iterable[Row]) -> Iterator[str]:
    """Everything that is written in the rows, to train a tokenizer on."""
    for row in rows:
        for part in (row.prompt, row.response, row.messages, row.text, row.chosen, row.rejected, *row.answers):
            if isinstance(part, str):
                yield part
            elif part is not None:
                yield from (turn["content"] for turn in part if isinstance(turn.get("content"), str))


def row_of_item(index: int, item: Any) -> Row:
    """A text, chat turns, or a mapping with a prompt and further columns. What cannot be read is a row with a problem."""
    if isinstance(item, str):
        return Row(index, prompt=item)
    if isinstance(item, Mapping):
        return row_of_columns(index, dict(item), ColumnNames())
    if isinstance(item, list | tuple):
        return row_of_columns(index, {"prompt" if is_parts(item) else "messages": item}, ColumnNames())
    return Row(index, prompt=str(item))


def row_of_columns(index: int, columns: Columns | Malformed, names: ColumnNames) -> Row:
    """The row that a source's columns make, under the names that the task gives them."""
    if isinstance(columns, Malformed):
        return Row(index, problem=columns.message)
    try:
        return _row(index, columns, names)
    except ExecutorError as error:
        return Row(index, columns=columns, metadata=_metadata(columns, names.metadata), problem=error.message)


def _row(index: int, columns: Columns, names: ColumnNames) -> Row:
    part = {wanted: columns.get(names.of.get(wanted, wanted)) for wanted in PARTS}
    if part["response"] is None and "response" not in names.stated:
        part["response"] = next((columns[name] for name in RESPONSE_NAMES if columns.get(name) is not None), None)
    if part["prompt"] is None:
        part["prompt"] = part["query"]
    answers = _several_texts(part["response"])
    messages = part["messages"]
    if messages is None and isinstance(columns.get("system"), str) and isinstance(part["prompt"], str):
        part["prompt"] = [{"role": "system", "content": columns["system"]}, {"role": "user", "content": part["prompt"]}]
    return Row(
        index, prompt=_text_or_turns(part["prompt"]), response=None if answers else _text_or_turns(part["response"]), answers=answers,
        messages=None if messages is None else _turns(messages), text=part["text"],
        chosen=_text_or_turns(part["chosen"]), rejected=_text_or_turns(part["rejected"]),
        metadata=_metadata(columns, names.metadata), columns=columns, problem=_problem(columns, names.required),
    )  # fmt: skip


def _several_texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) and all(isinstance(one, str | int | float) for one in value) else ()


def _turns(turns: Any) -> list[Turn]:
    if not isinstance(turns, list | tuple) or not all(isinstance(turn, Mapping) and "role" in turn and "content" in turn for turn in turns):
        raise ExecutorError("BadData", f"messages are a list of {{role, content}}, found {str(turns)[:80]}")
    return [dict(turn) for turn in turns]


def _text_or_turns(value: Any) -> str | list[Turn] | None:
    if value is None or isinstance(value, str):
        return value
    if is_parts(value):
        return [{"role": "user", "content": list(value)}]
    return _turns(value) if isinstance(value, list | tuple) else str(value)


def _metadata(columns: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    if names:
        return {name: columns.get(column) for name, column in names.items()}
    own = columns.get("metadata")
    return own if isinstance(own, dict) else {}


def _problem(columns: dict[str, Any], required: Iterable[str]) -> str:
    lacking = [name for name in required if columns.get(name) in (None, "")]
    if absent := [name for name in lacking if name not in columns]:
        return f"the row has no {', '.join(absent)}; it has {', '.join(sorted(columns)) or 'nothing'}"
    return f"the row's {', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} empty" if lacking else ""
