"""Answers prompts with transformers, in batches. Rows are the unit: one that fails is recorded and the others go on; one that an earlier
attempt recorded is not done again; a shard does its range of the rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mloc.core.events import INLINE_RESULT_BYTES
from mloc.core.host_frames import RunTask
from mloc.core.language.inference_spec import Inference
from mloc.core.language.spec import decode_spec
from mloc.executors.contract import Context, ExecutorError, Progress, Report, Result, ResultFile
from mloc.executors.data_loading import Row, load_rows
from mloc.executors.durable_files import write_durably
from mloc.executors.generation import Answer, answer_batch
from mloc.executors.model_loading import LoadedModel, load_model
from mloc.executors.prompts import prompt_text
from mloc.executors.row_store import RowStore
from mloc.executors.sampling import check_settings

ROWS_PER_BATCH = 16
ROWS_PER_BATCH_ON_DEVICE = 64
RESULT_FILE = "responses.json"


def load(task: RunTask, context: Context) -> LoadedModel:
    """The model with its adapters, ready to answer; the engine that stays warm."""
    spec = decode_spec(task.spec)
    check_settings(spec.inference)
    loaded = load_model(spec, context)
    loaded.model.eval()
    return loaded


def run(task: RunTask, engine: LoadedModel, context: Context) -> Iterator[Report]:
    """Answer every row that is not recorded yet, then put all of them together in the order of the input."""
    began = time.monotonic()
    spec = decode_spec(task.spec)
    check_settings(spec.inference)
    rows = load_rows(spec, context)
    if not rows and context.shard is None:
        raise ExecutorError("NoRows", "the data has no rows: nothing was asked of the model")
    store = RowStore(context.rows_folder, task.attempt)
    waiting = [row for row in rows if row.index not in store]
    if len(waiting) < len(rows):
        yield Progress((f"{len(rows) - len(waiting)} of {len(rows)} rows are recorded by an earlier attempt",))
    size = max(1, (ROWS_PER_BATCH_ON_DEVICE if context.devices else ROWS_PER_BATCH) // (spec.inference.n or 1))
    for first in range(0, len(waiting), size):
        if context.stopping():
            break
        _answer(waiting[first : first + size], spec.inference, engine, context, store)
        yield from store.sync_if_due()
        yield _progress(store, len(rows), time.monotonic() - began)
    if context.stopping() and any(row.index not in store for row in rows):
        yield from store.sync()
        return
    if rows and store.errors == len(rows) and context.shard is None:
        raise _every_row_failed(store)
    yield from _result(engine.name, store, context, len(rows), time.monotonic() - began)


def _answer(batch: list[Row], inference: Inference, engine: LoadedModel, context: Context, store: RowStore) -> None:
    """Answer the rows together; where that fails, one by one, so that only the row which cannot be answered has the error."""
    asked: list[tuple[Row, str]] = []
    for row in batch:
        try:
            asked.append((row, prompt_text(row, inference, engine.tokenizer)))
        except ExecutorError as error:
            _record_error(row, error.type, error.message, inference, store)
    try:
        _record(asked, inference, engine, context, store)
    except Exception as together:  # whatever a library raises belongs to one of the rows
        for one in asked:
            try:
                _record([one], inference, engine, context, store)
            except Exception as alone:
                _record_error(one[0], _type_of(alone), str(alone) or str(together), inference, store)


def _record(asked: list[tuple[Row, str]], inference: Inference, engine: LoadedModel, context: Context, store: RowStore) -> None:
    asked = [(row, text) for row, text in asked if row.index not in store]
    if not asked or context.stopping():
        return
    seed = None if inference.seed is None else inference.seed + asked[0][0].index
    answers = answer_batch([text for _, text in asked], inference, engine, seed, context.stopping)
    for (row, _), answer in zip(asked, answers or (), strict=bool(answers)):
        store.add(row.index, _item(row, answer), answer.prompt_tokens, answer.completion_tokens)


def _item(row: Row, answer: Answer) -> dict[str, Any]:
    first = answer.outputs[0]
    item = {"index": row.index, "prompt": row.messages or row.prompt or row.text, "output": first["text"], "finish_reason": first["finish_reason"]}
    if len(answer.outputs) > 1 or "logprobs" in first:
        item["outputs"] = answer.outputs
    usage = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    return {**item, "metadata": row.metadata, "usage": usage}


def _record_error(row: Row, type_: str, message: str, inference: Inference, store: RowStore) -> None:
    if inference.on_item_error == "fail":
        raise ExecutorError(type_, f"row {row.index}: {message}")
    prompt = row.messages or row.prompt or row.text
    store.add(row.index, {"index": row.index, "prompt": prompt, "error": {"type": type_, "message": message[:1000]}, "metadata": row.metadata})
    store.errors += 1
    if inference.max_item_errors is not None and store.errors > inference.max_item_errors:
        raise ExecutorError("TooManyItemErrors", f"{store.errors} rows failed, {inference.max_item_errors} are allowed; the last: {message[:500]}")


def _every_row_failed(store: RowStore) -> ExecutorError:
    """One row that fails is an error in its place; when none has an answer, the task has no result to go on with."""
    first = msgspec.json.decode(next(iter(store.records())))["error"]
    said = f"none of {store.errors} rows has an answer; the first: {first['type']}: {first['message']}"
    return ExecutorError("EveryRowFailed", said)


def _progress(store: RowStore, total: int, seconds: float) -> Progress:
    speed = store.new_completion_tokens / max(seconds, 1e-6)
    line = f"{len(store)}/{total} rows  {speed:.0f} tokens/s" + (f"  {store.errors} failed" if store.errors else "")
    return Progress((line,), len(store), total, {"rows": float(len(store)), "tokens_per_sec": round(speed, 1)})


def _result(model: str, store: RowStore, context: Context, total: int, seconds: float) -> Iterator[Report]:
    """Inline where it is small, else written row by row into the attempt's folder."""
    tokens = {"prompt_tokens": store.prompt_tokens, "completion_tokens": store.completion_tokens}
    usage = {**tokens, "total_tokens": sum(tokens.values()), "latency_sec": round(seconds, 3), "num_requests": total}
    if store.size_bytes < INLINE_RESULT_BYTES - 1024:
        yield Result({"ok": True, "model": model, "items": [msgspec.Raw(record) for record in store.records()], "usage": usage})
        return
    yield from store.sync()
    digest, size = write_durably(Path(context.folder) / RESULT_FILE, _pieces(model, store, usage))
    yield ResultFile(digest, size, usage)


def _pieces(model: str, store: RowStore, usage: dict[str, Any]) -> Iterator[bytes]:
    yield b'{"ok":true,"model":' + msgspec.json.encode(model) + b',"items":['
    for number, record in enumerate(store.records()):
        yield (b",\n" if number else b"\n") + record
    yield b'\n],"usage":' + msgspec.json.encode(usage) + b"}"


def _type_of(error: Exception) -> str:
    return error.type if isinstance(error, ExecutorError) else type(error).__name__
