"""Gives every item back as its own output, or fills in a graph template: for trying out a fleet, and for summing up a pipeline.

The spec's `echo` section makes it misbehave on purpose (see `core.language.echo_spec`). Without that it takes microseconds and is light:
a host answers hundreds in one go, so only the parts of the spec that matter are decoded.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from mloc.core.host_frames import NOT_LIGHT, RunTask
from mloc.core.language.data_spec import GraphTemplateData
from mloc.core.language.echo_spec import Echo
from mloc.core.language.graph_template import render_graph_template
from mloc.core.language.spec import decode_spec
from mloc.core.sharding import shard_range
from mloc.executors.contract import Context, ExecutorError, LightResult, Progress, Report, Result
from mloc.executors.rows.row_work import RowWork, do_rows, open_work
from mloc.executors.rows.rows import Row

STEP_SEC = 0.05
ROWS_A_BATCH = 256
IN_FILES = ("jsonl", "dataset")  # forms of data whose rows are read by a host of the task's own


class EchoData(Struct, frozen=True, gc=False):
    type: str = ""
    items: list[Any] = []
    messages: list[Any] = []
    preferences: list[Any] = []


class EchoSpec(Struct, frozen=True, gc=False):
    """What echo needs to know of a spec; the rest of it is skipped undecoded."""

    data: EchoData = EchoData()
    echo: Echo = Echo()
    postprocess: dict[str, Any] = {}


class EchoItem(Struct, frozen=True, gc=False):
    index: int
    prompt: Any
    output: str
    finish_reason: str = "stop"
    metadata: dict[str, Any] = {}


class EchoResult(Struct, frozen=True, gc=False, kw_only=True):
    ok: bool = True
    model: str = "echo"
    items: list[EchoItem]
    usage: dict[str, Any]


_decode = msgspec.json.Decoder(EchoSpec).decode
_encode = msgspec.json.Encoder().encode
_WELL_BEHAVED = Echo()


def run_light(task: RunTask) -> LightResult:
    """The result of a task that neither sleeps nor crashes."""
    spec = _decode(task.spec)
    if spec.echo != _WELL_BEHAVED:
        if spec.echo.sleep_sec or spec.echo.row_sleep_sec or spec.echo.crash:
            raise ExecutorError(NOT_LIGHT, "an echo that sleeps or crashes needs a host of its own", retryable=True)
        _misbehave(spec.echo, task.attempt)
    result = _echo(task, spec.data)
    return LightResult(_encode(result), result.usage)


def run(task: RunTask, engine: None, context: Context) -> Iterator[Report]:
    """Sleep as told, in steps, then echo."""
    spec = _decode(task.spec)
    yield from _sleep(spec.echo, context)
    if context.stopping():
        return
    _misbehave(spec.echo, task.attempt)
    if spec.data.type in IN_FILES or spec.echo.row_sleep_sec or spec.postprocess:
        work = open_work(task, context, decode_spec(task.spec), EchoResult(items=[], usage={}).model)
        yield from do_rows(work, 1 if spec.echo.row_sleep_sec else ROWS_A_BATCH, lambda rows: _echo_rows(rows, work, spec.echo))
        return
    yield Result(msgspec.to_builtins(_echo(task, spec.data)))


def _sleep(behaviour: Echo, context: Context) -> Iterator[Report]:
    steps = math.ceil(behaviour.sleep_sec / STEP_SEC)
    for step in range(1, steps + 1):
        if context.stopping() and not behaviour.ignore_stop:
            return
        time.sleep(min(STEP_SEC, max(0.0, behaviour.sleep_sec - (step - 1) * STEP_SEC)))
        if step % 20 == 0 or step == steps:
            slept = min(step * STEP_SEC, behaviour.sleep_sec)
            yield Progress(step=step, total_steps=steps, lines=(f"slept {slept:.2g} of {behaviour.sleep_sec:g} s",))


def _misbehave(behaviour: Echo, attempt: int) -> None:
    if behaviour.fail_times and attempt > behaviour.fail_times:
        return
    if behaviour.crash:
        os.abort()
    if behaviour.fail:
        raise ExecutorError("EchoFailed", behaviour.fail, retryable=behaviour.retryable)


def _echo(task: RunTask, data: EchoData) -> EchoResult:
    return _result([_fill_in(task)] if data.type == "graph_template" else _echo_items(task, data))


def _result(items: list[EchoItem]) -> EchoResult:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "latency_sec": 0.0, "num_requests": len(items)}
    return EchoResult(items=items, usage=usage)


def _echo_items(task: RunTask, data: EchoData) -> list[EchoItem]:
    prompts = data.items or data.messages or data.preferences
    first = 0
    if task.shard is not None:
        span = shard_range(*task.shard, len(prompts))
        first, prompts = span.start, prompts[span.start : span.stop]
    return [EchoItem(index, prompt, prompt if type(prompt) is str else text_of(prompt)) for index, prompt in enumerate(prompts, first)]


def _echo_rows(rows: list[Row], work: RowWork, behaviour: Echo) -> None:
    """Rows one by one, as a model would do them; one without a prompt, messages or a text comes back as it is."""
    for row in rows:
        time.sleep(behaviour.row_sleep_sec)
        said = next((part for part in (row.prompt, row.messages, row.text) if part is not None), row.columns)
        item = {"index": row.index, "prompt": said, "output": text_of(said), "finish_reason": "stop", "metadata": row.metadata}
        work.store.add(row.index, item)


def text_of(item: Any) -> str:
    """The text of an item: itself, its `prompt`, its last message, or its JSON."""
    match item:
        case str():
            return item
        case {"prompt": prompt}:
            return text_of(prompt)
        case {"messages": [*_, message]} | [*_, {"content": _} as message]:
            return text_of(message)
        case {"content": content}:
            return text_of(content)
    return _encode(item).decode()


def _fill_in(task: RunTask) -> EchoItem:
    """A graph template's text; `task.inputs` holds the results of the stages that it names."""
    data = decode_spec(task.spec).data
    assert isinstance(data, GraphTemplateData)
    (filled,) = render_graph_template(data, task.inputs)
    return EchoItem(0, filled, filled["prompt"])
