"""Tasks of type `word_count`: how many words each row has. Rows, retries and results are as those of inference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import decode_spec
from mloc.executors.contract import Context, Report
from mloc.executors.rows.row_work import RowWork, do_rows, open_work, record_error
from mloc.executors.rows.rows import Row


def run(task: RunTask, engine: Any, context: Context) -> Iterator[Report]:
    """Count the rows that no earlier attempt has counted; `do_rows` reports, stops where it is asked to, and ends with the result."""
    work = open_work(task, context, decode_spec(task.spec), "word count")
    yield from do_rows(work, 100, lambda batch: _count(batch, work))


def _count(batch: list[Row], work: RowWork) -> None:
    for row in batch:
        if isinstance(row.prompt, str):
            words = len(row.prompt.split())
            work.store.add(row.index, {"index": row.index, "prompt": row.prompt, "output": words, "metadata": row.metadata})
        else:
            record_error(work, row, "NoText", "the row has no text to count words in")
