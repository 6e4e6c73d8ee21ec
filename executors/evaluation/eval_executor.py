"""Judges a model: by what it answers to rows with known answers, by a judge, or by the tasks of lm-evaluation-harness; with a gate.

`metrics` of the result has, for each metric, {value, stderr, n}; `items` has every row or sample with its scores. A gate that is not passed
fails the task, and so the pipeline, and is not tried again.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from mloc.core.host_frames import RunTask
from mloc.core.language.data_spec import DatasetData, JsonlData, ListData
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.core.language.training_spec import Eval
from mloc.executors.contract import Context, ExecutorError, Progress, Report
from mloc.executors.evaluation.gates import NOT_PASSED, check_gate, metric_of, pass_gate
from mloc.executors.evaluation.judge import Judge, load_judge
from mloc.executors.evaluation.scores import score_answer, summed_up
from mloc.executors.inference.answering_engines import answering_line, check_inference, engine_identities, load_engine, open_answering
from mloc.executors.inference.answers import Answer, Question, questions_of, record_answer
from mloc.executors.rows.data_loading import load_rows
from mloc.executors.rows.row_store import RowStore
from mloc.executors.rows.row_work import RowWork, do_steps, open_work
from mloc.executors.rows.rows import Row, conversation

MOST_SHOWN, LONGEST_SHOWN = 10, 120  # rows of a gate that was not passed; characters of an answer

identities = engine_identities


def load(task: RunTask, context: Context) -> Any:
    """The model, ready to answer; the engine that stays warm."""
    spec = decode_spec(task.spec)
    asked = _asked(spec, context)
    if asked.harness != "lm-eval":
        check_inference(spec, context)
        load_rows(spec, context)
    return load_engine(spec, context)


def run(task: RunTask, engine: Any, context: Context) -> Iterator[Report]:
    """Measure, then hold what was measured against the gate."""
    spec = decode_spec(task.spec)
    asked = _asked(spec, context)
    answering = open_answering(spec, engine, context)
    yield Progress((answering_line(answering),))
    if asked.harness == "lm-eval":
        from mloc.executors.evaluation.harness import run_harness

        yield from run_harness(spec, asked, engine, answering, context)
        return
    check_inference(spec, context)
    work = open_work(task, context, _limited(spec, asked, context), answering.name)
    work = replace(work, engine=answering.engine, metrics=answering.metrics, summary=lambda store: _summary(store, work, asked))
    judge = load_judge(asked.judge, context) if asked.harness == "judge" else None

    def record(question: Question, answer: Answer) -> None:
        record_answer(work, question.row, answer, lambda item: _scored(question.row, item, asked, judge))

    yield from do_steps(work, answering.steps(work, questions_of(work, answering), record))


def _asked(spec: TaskSpec, context: Context) -> Eval:
    """Raises ExecutorError for what cannot come to anything, before a model is loaded."""
    asked = spec.eval or Eval()
    check_gate(asked.gate, context)
    if asked.harness == "lm-eval":
        from mloc.executors.evaluation.harness import check_harness

        check_harness(asked, context)
    try:
        re.compile(asked.pattern or "")
    except re.error as error:
        raise ExecutorError("BadSetting", f"eval.pattern is no regular expression: {error}") from error
    return asked


def _limited(spec: TaskSpec, asked: Eval, context: Context) -> TaskSpec:
    """Only as many rows, or such a part of them, as `eval.limit` says."""
    if asked.limit is None:
        return spec
    most = int(asked.limit) if asked.limit >= 1 else math.ceil(asked.limit * load_rows(spec, context).total)
    match spec.data:
        case ListData(items=items):
            return replace(spec, data=ListData(items=items[:most]))
        case DatasetData(max_samples=own) | JsonlData(max_samples=own) as data:
            return replace(spec, data=replace(data, max_samples=most if own is None else min(own, most)))
    raise ExecutorError("UnsupportedSetting", "eval.limit: only data that is a list, a file or a dataset can be limited")


def _scored(row: Row, item: dict[str, Any], asked: Eval, judge: Judge | None) -> dict[str, Any]:
    references = _references(row)
    if judge is not None:
        scores = {"judge_score": judge(conversation(row) or [{"role": "user", "content": row.text or ""}], str(item["output"]), references)}
    elif not references and asked.pattern is None:
        raise ExecutorError("NoReference", f"the row says not what the answer is: it has no response; it has {', '.join(sorted(row.columns))}")
    else:
        scores = score_answer(str(item["output"]), references, asked.pattern)
    return {**item, "reference": references[0] if len(references) == 1 else references, "scores": scores}


def _references(row: Row) -> list[str]:
    """A row may have one right answer, or a list of them in its column, which may be called `answers` too."""
    if row.answers:
        return list(row.answers)
    if isinstance(listed := row.columns.get("answers"), list | tuple) and all(isinstance(one, str) for one in listed):
        return list(listed)
    if isinstance(row.response, str):
        return [row.response]
    return [str(turn["content"]) for turn in (row.response or ())[-1:]]


def _summary(store: RowStore, work: RowWork, asked: Eval) -> dict[str, Any]:
    is_part = work.context.shard is not None
    scores = [record["scores"] for record in map(msgspec.json.decode, store.records()) if "scores" in record]
    metrics = summed_up(scores, len(store), is_part=is_part)
    try:
        return {"harness": asked.harness, **concluded(metrics, asked, work.context)}
    except ExecutorError as error:
        if error.type == NOT_PASSED and asked.gate is not None:
            work.context.report(Progress(_lowest(store, metric_of(asked.gate.metric, metrics)[0])))
        raise


def _lowest(store: RowStore, metric: str) -> tuple[str, ...]:
    """The rows that a gate was not passed for, in words: a task that failed has no result to look them up in."""
    scored = (record for record in map(msgspec.json.decode, store.records()) if "scores" in record)
    rows = heapq.nsmallest(MOST_SHOWN, scored, key=lambda record: record["scores"].get(metric, 0.0))
    return ("the rows with the lowest scores:", *(_told(row, metric) for row in rows)) if rows else ()


def _told(row: dict[str, Any], metric: str) -> str:
    right = f", and right is {_short(row['reference'])}" if row["reference"] else ""
    return f"row {row['index']}: {metric} {row['scores'].get(metric, 0.0):.4g}: {_short(row['output'])}{right}"


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def concluded(metrics: dict[str, dict[str, Any]], asked: Eval, context: Context) -> dict[str, Any]:
    """The metrics, said in the log and held against the gate. Raises ExecutorError where that is not passed."""
    lines = [f"{name} {of['value']:.4g}" + (f" ± {of['stderr']:.2g}" if of["stderr"] is not None else "") for name, of in metrics.items()]
    context.report(Progress(tuple(lines), metrics={name: float(of["value"]) for name, of in metrics.items()}))
    told: dict[str, Any] = {"metrics": metrics}
    if asked.gate is not None:
        told["gate"] = pass_gate(asked.gate, metrics, context)
        context.report(Progress(("the gate is passed",)))
    return told
