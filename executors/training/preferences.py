"""Rows as examples of what is better: pairs for DPO and reward models, labelled answers for KTO."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mloc.executors.contract import ExecutorError
from mloc.executors.rows.data_loading import lacking
from mloc.executors.rows.rows import Row, Turn, conversation

LABEL_COLUMNS = ("label", "completion_label", "is_good")


def preference_examples(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """`{prompt, chosen, rejected}`, each as turns; without a prompt where chosen and rejected are whole conversations."""
    return _all_alike([_pair(row) for row in rows])


def labelled_examples(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """`{prompt, completion, label}`; a pair gives one of each label."""
    return _all_alike([example for row in rows for example in _labelled(row)])


def equal_pairs(made: Sequence[dict[str, Any]]) -> list[str]:
    """What to say of pairs whose answers are the same; nothing where there are none."""
    equal = sum(example["chosen"] == example["rejected"] for example in made)
    return [f"{equal} of {len(made)} pairs have the same answer as chosen and as rejected: nothing is learned from them"] if equal else []


def _pair(row: Row) -> dict[str, Any]:
    if row.problem:
        raise ExecutorError("BadData", f"row {row.index}: {row.problem}")
    if row.chosen is None or row.rejected is None:
        raise lacking(row, "chosen and rejected")
    prompt = conversation(row)
    answers = {"chosen": _turns(row.chosen), "rejected": _turns(row.rejected)}
    if prompt is not None:
        return {"prompt": prompt, **answers}
    if isinstance(row.chosen, str):
        raise lacking(row, "a prompt beside chosen and rejected, unless they are whole conversations")
    return answers


def _labelled(row: Row) -> list[dict[str, Any]]:
    if row.chosen is not None or row.rejected is not None:
        pair = _pair(row)
        if "prompt" not in pair:
            raise lacking(row, "a prompt")
        return [{"prompt": pair["prompt"], "completion": pair[kind], "label": kind == "chosen"} for kind in ("chosen", "rejected")]
    label = next((row.columns[name] for name in LABEL_COLUMNS if name in row.columns), None)
    prompt = conversation(row)
    if prompt is None or row.response is None or not isinstance(label, bool | int):
        raise lacking(row, "a prompt, a response and a label (true or false)")
    return [{"prompt": prompt, "completion": _turns(row.response), "label": bool(label)}]


def _turns(answer: str | list[Turn]) -> list[Turn]:
    return [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer


def _all_alike(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not made:
        raise ExecutorError("NoData", "the data has no rows")
    if len({tuple(example) for example in made}) > 1:
        raise ExecutorError("BadData", "the rows are not alike: some have a prompt, others have not")
    return made
