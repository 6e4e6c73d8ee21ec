"""Working through a task's rows: those that no earlier attempt recorded, in batches, each row recorded as its answer comes.

Rows are the unit. One that fails is an error in its place and the others go on; when all are there they become the result, in the order of
the input. No more than a batch of rows is in memory, and of the result nothing once it is larger than an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from mloc.core.events import INLINE_RESULT_BYTES
from mloc.core.host_frames import RunTask
from mloc.core.jsonl_export import ExportCounts, export_file, export_line, export_summary
from mloc.core.language.data_spec import JsonlExport
from mloc.core.language.inference_spec import Inference
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError, Progress, Report, Result, ResultFile
from mloc.executors.durable_files import write_durably
from mloc.executors.meters import Meter, computes_here
from mloc.executors.rows.data_loading import Rows, load_rows
from mloc.executors.rows.row_store import RowStore
from mloc.executors.rows.rows import Row

RESULT_FILE = "responses.json"
PROGRESS_SEC = 0.5


class Published(Struct, frozen=True):
    """How the records become the result: each record through `item`, `members` beside the items. `size_bytes` of all items together, where
    it is another than the records'."""

    item: Callable[[bytes], bytes] = lambda record: record
    members: dict[str, Any] = {}
    size_bytes: int | None = None


class RowWork(Struct, frozen=True):
    """What the executor that answers rows works with. `model` is what the result calls it; `engine`, where it is given, and its `metrics`
    stand in the result too."""

    rows: Rows
    store: RowStore
    context: Context
    inference: Inference
    model: str
    task: str
    export: JsonlExport | None = None
    summary: Callable[[RowStore], dict[str, Any]] | None = None  # what the result says beside its rows, once all are there
    publish: Callable[[RowStore], Published] = lambda _: Published()
    engine: dict[str, Any] = {}
    metrics: dict[str, float] = {}

    @property
    def seed(self) -> int:
        """That the task names, else the one that it was given."""
        return self.context.seed if self.inference.seed is None else self.inference.seed


def open_work(
    task: RunTask, context: Context, spec: TaskSpec, model: str, publish: Callable[[RowStore], Published] = lambda _: Published()
) -> RowWork:
    """Raises ExecutorError where there is nothing to do. A shard exports nothing: whoever merges them does."""
    rows = load_rows(spec, context)
    if not len(rows) and context.shard is None:
        raise ExecutorError("NoRows", "the data has no rows: nothing was asked of the model")
    export = spec.postprocess.jsonl_export if context.shard is None else None
    return RowWork(rows, RowStore(context.rows_folder, task.attempt, rows.first), context, spec.inference, model, task.task, export, publish=publish)


def do_rows(work: RowWork, batch_size: int, answer: Callable[[list[Row]], None]) -> Iterator[Report]:
    """Have `answer` record every row that is not recorded yet, a batch at a time; then all of them together are the result."""
    yield from do_steps(work, _in_batches(work, batch_size, answer))


def do_steps(work: RowWork, steps: Iterable[None]) -> Iterator[Report]:
    """Have `steps` record every row that is not recorded yet, some at each step; then all of them together are the result.

    Ends without a result where the attempt was asked to stop before all rows were there.
    """
    began, total, store = time.monotonic(), len(work.rows), work.store
    meter = Meter(work.context.devices, computes=computes_here())
    if len(store):
        yield Progress((f"{len(store)} of {total} rows are recorded by an earlier attempt",))
    said_at, said = 0.0, -1
    for _ in steps:
        yield from store.sync_if_due()
        if time.monotonic() - said_at >= PROGRESS_SEC:
            said_at, said = time.monotonic(), len(store)
            yield _progress(work, total, time.monotonic() - began, meter)
    if len(store) < total and work.context.stopping():
        yield from store.sync()
        return
    if said != len(store):
        yield _progress(work, total, time.monotonic() - began, meter)
    if total and store.errors == total and work.context.shard is None:
        raise _every_row_failed(store)
    yield from _result(work, total, time.monotonic() - began, meter)


def record_together(work: RowWork, asked: list[tuple[Row, Any]], record: Callable[[list[tuple[Row, Any]]], None]) -> None:
    """Record the rows with one call; where that fails one by one, so that only a row which cannot be answered has the error.

    Raises ExecutorError for what trying again can help: that is not a row's fault."""
    try:
        record(asked)
    except Exception as together:  # whatever a library raises belongs to one of the rows
        _raise_of_attempt(together)
        for one in asked:
            if one[0].index in work.store:
                continue
            try:
                record([one])
            except Exception as alone:
                _raise_of_attempt(alone)
                type_ = alone.type if isinstance(alone, ExecutorError) else type(alone).__name__
                record_error(work, one[0], type_, str(alone) or str(together))


def _raise_of_attempt(error: Exception) -> None:
    if isinstance(error, ExecutorError) and error.retryable:
        raise error


def record_error(work: RowWork, row: Row, type_: str, message: str, more: dict[str, Any] | None = None) -> None:
    """The row cannot be answered: an error in its place, or the task's end where that was asked for. Raises ExecutorError then.

    `more` stands beside the error."""
    inference, store = work.inference, work.store
    if inference.on_item_error == "fail":
        raise ExecutorError(type_, f"row {row.index}: {message}")
    error = {"type": type_, "message": message[:1000]}
    record = {"index": row.index, "prompt": row.asked or row.columns or None, "error": error, "metadata": row.metadata}
    store.add(row.index, record | (more or {}))
    if inference.max_item_errors is not None and store.errors > inference.max_item_errors:
        raise ExecutorError("TooManyItemErrors", f"{store.errors} rows failed, {inference.max_item_errors} are allowed; the last: {message[:500]}")


def rows_to_answer(work: RowWork) -> Iterator[Row]:
    """The rows that no attempt recorded; those that cannot be read are recorded as errors on the way."""
    for row in work.rows:
        if row.index in work.store:
            continue
        if row.problem:
            record_error(work, row, "BadRow", row.problem)
            continue
        yield row


def _in_batches(work: RowWork, size: int, answer: Callable[[list[Row]], None]) -> Iterator[None]:
    """Steps that have `answer` record a batch each, until the attempt is asked to stop."""
    rows = rows_to_answer(work)
    while (batch := list(islice(rows, size))) and not work.context.stopping():
        answer(batch)
        yield


def _every_row_failed(store: RowStore) -> ExecutorError:
    """One row that fails is an error in its place; when none has an answer, the task has no result to go on with."""
    first = msgspec.json.decode(next(iter(store.records())))["error"]
    said = f"none of {store.errors} rows has an answer; the first: {first['type']}: {first['message']}"
    return ExecutorError("EveryRowFailed", said)


def _progress(work: RowWork, total: int, seconds: float, meter: Meter) -> Progress:
    store = work.store
    speed = (store.new_completion_tokens or store.new_prompt_tokens) / max(seconds, 1e-6)
    line = f"{len(store)}/{total} rows  {speed:.0f} tokens/s" + (f"  {store.errors} failed" if store.errors else "")
    return Progress((line,), len(store), total, {"rows": float(len(store)), "tokens_per_sec": round(speed, 1), **meter.of_devices(), **work.metrics})


def _result(work: RowWork, total: int, seconds: float, meter: Meter) -> Iterator[Report]:
    """Inline where it is small, else written row by row into the attempt's folder."""
    store = work.store
    tokens = {"prompt_tokens": store.prompt_tokens, "completion_tokens": store.completion_tokens}
    usage = {**tokens, "total_tokens": sum(tokens.values()), "latency_sec": round(seconds, 3), "num_requests": total}
    more: dict[str, Any] = {"usage": usage}
    if work.engine:
        speed = round((store.new_completion_tokens or store.new_prompt_tokens) / max(seconds, 1e-6), 1)
        more |= {"engine": work.engine, "metrics": {"tokens_per_sec": speed, **meter.of_devices(), **work.metrics}}
    more |= work.summary(store) if work.summary else {}
    files = work.context.artifacts
    if work.export is not None:
        more["jsonl_export"] = exported = _exported(work, work.export)
        yield Progress((f"{exported['rows']} rows exported to {exported['path']}, {exported['skipped']} skipped",))
    published = work.publish(store)
    more |= published.members
    if (store.size_bytes if published.size_bytes is None else published.size_bytes) < INLINE_RESULT_BYTES - 1024:
        items = [msgspec.Raw(published.item(record)) for record in store.records()]
        yield Result({"ok": True, "model": work.model, "items": items, **more}, files=files.is_dir() and any(files.iterdir()))
        return
    yield from store.sync()
    digest, size = write_durably(Path(work.context.folder) / RESULT_FILE, _pieces(work.model, map(published.item, store.records()), more))
    yield ResultFile(digest, size, usage)


def _exported(work: RowWork, export: JsonlExport) -> dict[str, Any]:
    """Write the training set into the attempt's artifacts; what the result says of it."""
    counts = ExportCounts()
    try:
        name = export_file(export)
    except ValueError as error:
        raise ExecutorError("BadSetting", str(error)) from error
    file = work.context.folder / name
    write_durably(file, (export_line(export, msgspec.json.decode(record), counts) for record in work.store.records()))
    return export_summary(work.context.final_path(file), work.task, name, counts)


def _pieces(model: str, items: Iterable[bytes], more: dict[str, Any]) -> Iterator[bytes]:
    """The result's JSON, a row a line: who reads it can take row by row."""
    yield b'{"ok":true,"model":' + msgspec.json.encode(model) + b',"items":['
    for number, item in enumerate(items):
        yield (b",\n" if number else b"\n") + item
    yield b"\n]," + msgspec.json.encode(more)[1:]
