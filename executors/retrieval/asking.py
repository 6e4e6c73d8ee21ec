"""The question with its passages, as a model is asked it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.prompts import PromptTemplate
from msgspec.structs import replace

from mloc.executors.contract import ExecutorError
from mloc.executors.rows.rows import Row, conversation

DEFAULT = "Answer the question from these passages only.\n\n{context}\n\nQuestion: {question}"
_NAMES = {"context", "question"}


def prompt_template(written: str | None) -> PromptTemplate:
    """LangChain's, with `{context}` and `{question}`. Raises ExecutorError for other names in braces."""
    try:
        template = PromptTemplate.from_template(written or DEFAULT)
    except ValueError as error:
        raise ExecutorError("BadSetting", f"retrieval.prompt is no template: {error}; write {{{{ and }}}} for braces of your own") from error
    if set(template.input_variables) != _NAMES:
        there = ", ".join(f"{{{name}}}" for name in template.input_variables) or "none"
        raise ExecutorError("BadSetting", f"retrieval.prompt takes {{context}} and {{question}}, both of them; found {there}")
    return template


def question_of(row: Row) -> str:
    """What is looked up: the row's prompt, or the last turn of the user. Raises ExecutorError where it asks nothing."""
    turns = conversation(row)
    if turns is None:
        asked: Any = row.text if row.text is not None else row.columns.get("question")
    else:
        asked = next((turn["content"] for turn in reversed(turns) if turn["role"] == "user"), None)
    if not isinstance(asked, str) or not asked.strip():
        has = ", ".join(sorted(row.columns)) or "nothing that is a text"
        raise ExecutorError("NoPrompt", f"the row asks nothing; it has {has}")
    return asked


def with_passages(row: Row, question: str, passages: Sequence[dict[str, Any]], template: PromptTemplate) -> Row:
    """The row, asked with the passages before its question; earlier turns stay."""
    context = "\n\n".join(f"[{number}] {passage['text']}" for number, passage in enumerate(passages, 1)) or "(nothing was found)"
    asked = template.format(context=context, question=question)
    turns = conversation(row)
    if turns is None or (row.messages is None and len(turns) == 1):
        return replace(row, prompt=asked, text=None)
    last = max(at for at, turn in enumerate(turns) if turn["role"] == "user")
    return replace(row, messages=[*turns[:last], {**turns[last], "content": asked}, *turns[last + 1 :]])
