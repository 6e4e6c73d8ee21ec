"""What a row says, as one text."""

from __future__ import annotations

from typing import Any

from mloc.executors.contract import ExecutorError
from mloc.executors.rows.prompts import only_text
from mloc.executors.rows.rows import Row, Turn

_NAMES = ("text", "output", "content", "page_content", "question")


def text_of(row: Row) -> str:
    """The row's text, its prompt, or its turns one after the other. Raises ExecutorError where it has none."""
    if row.text is not None:
        return row.text
    turns = row.messages if row.messages is not None else row.prompt
    if isinstance(turns, list):
        return "\n".join(str(only_text(turn)["content"]) for turn in turns)
    said = turns if turns is not None else next((row.columns[name] for name in _NAMES if isinstance(row.columns.get(name), str)), None)
    if said is None:
        has = ", ".join(sorted(row.columns)) or "nothing"
        raise ExecutorError("NoText", f"the row has neither a text nor a prompt; it has {has}")
    return said


def text_with_words(row: Row) -> str:
    """As `text_of`, where an empty text is none: no model says anything of it."""
    text = text_of(row)
    if not text.strip():
        raise ExecutorError("NoText", "the row's text is empty")
    return text


def asked_by(row: Row) -> list[Turn]:
    """The turns up to an answer that is to be judged."""
    if row.messages is not None:
        return row.messages
    prompt = row.prompt if row.prompt is not None else row.text
    return prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt or ""}]


def plain_text(value: Any) -> str:
    """An answer given as a text or as turns."""
    return value if isinstance(value, str) else "\n".join(str(only_text(turn)["content"]) for turn in value)
