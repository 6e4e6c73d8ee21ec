"""Runs agents with LangChain on the engine of inference: a task, or each row of its data, is a question to an agent with tools.

Rows are the unit: a question that finds no answer within its limits is an error in its place, with the steps that were made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from mloc.core.host_frames import RunTask
from mloc.core.language.data_spec import ListData
from mloc.core.language.inference_spec import Inference
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.executors.agents.agent_loop import AskedToStop, Budget, Outcome, OutOfTime, run_agent
from mloc.executors.agents.agent_settings import AgentSettings, agent_settings
from mloc.executors.agents.chat_model import Answered, Ask, EngineChatModel, takes_tools
from mloc.executors.agents.tools.toolbox import Ground, Place, check_tools, open_tools, prepare_tools
from mloc.executors.contract import Context, ExecutorError, Progress, Report
from mloc.executors.durable_files import sync_tree
from mloc.executors.inference.answering_engines import answering_line, check_inference, engine_identities, load_engine, open_answering
from mloc.executors.inference.answers import Answering
from mloc.executors.rows.row_store import RowStore
from mloc.executors.rows.row_work import RowWork, do_rows, open_work, record_error
from mloc.executors.rows.rows import Row, Turn, conversation

STEP_SEED = 1_000_003  # so that two steps of one row draw different random numbers


identities = engine_identities


def load(task: RunTask, context: Context) -> Any:
    """The model, ready to answer; the engine that stays warm."""
    spec = decode_spec(task.spec)
    _checked(spec, context)
    return load_engine(spec, context)


def run(task: RunTask, engine: Any, context: Context) -> Iterator[Report]:
    """Put every row that is not recorded yet to an agent of its own."""
    spec = decode_spec(task.spec)
    settings = _checked(spec, context)
    is_one = spec.data is None
    rows = replace(spec, data=ListData(items=(settings.task,))) if is_one else spec
    answering = open_answering(spec, engine, context)
    native = _is_native(settings, answering)
    yield Progress((answering_line(answering),))
    if settings.tools:
        yield Progress((f"tool calls {'by the chat template of the model' if native else 'as text (ReAct)'}",))
    work = open_work(task, context, replace(rows, inference=_sampling(spec, settings)), answering.name)
    work = replace(work, summary=_summary if is_one else None, engine=answering.engine, metrics=answering.metrics)
    with ExitStack() as stack:
        prepared = yield from prepare_tools(settings.tools, Ground(task.attempt, spec, context, stack))
        yield from do_rows(work, 1, lambda batch: _answer(batch[0], answering, work, spec, settings, prepared, native))


def _checked(spec: TaskSpec, context: Context) -> AgentSettings:
    """Raises ExecutorError for what means nothing, before a model is loaded."""
    settings = agent_settings(spec, context)
    check_tools(settings.tools, spec)
    check_inference(replace(spec, inference=_sampling(spec, settings)), context)
    return settings


def _answer(
    row: Row, answering: Answering, work: RowWork, spec: TaskSpec, settings: AgentSettings, prepared: Sequence[Any], native: bool
) -> None:
    budget = Budget(settings, work.context.stopping)

    def say(line: str) -> None:
        work.context.report(Progress((f"[{row.index}] {line}" if len(work.rows) > 1 else line,)))

    folder = work.context.artifacts / "workspace" / str(row.index)
    place = Place(folder, budget.left_sec, budget.over, say, work.context)
    try:
        with ExitStack() as stack:
            try:
                tools = open_tools(settings.tools, prepared, place, stack)
            except ExecutorError as error:
                return record_error(work, row, error.type, error.message)
            model = EngineChatModel(tokenizer=answering.tokenizer, ask=_ask(row, answering, work, budget, native), native=native)
            outcome = run_agent(model, tools, _turns(row, spec, settings), settings, budget, say)
    except AskedToStop:
        return
    except ExecutorError as error:
        if error.retryable:  # the engine's, not the question's
            raise
        return record_error(work, row, error.type, error.message)
    finally:
        _keep_files(folder)
    _record(row, work, outcome, budget)


def _record(row: Row, work: RowWork, outcome: Outcome, budget: Budget) -> None:
    usage = {"prompt_tokens": budget.prompt_tokens, "completion_tokens": budget.completion_tokens}
    if outcome.limit is not None:
        record_error(work, row, *outcome.limit, more={"steps": outcome.steps, "usage": usage})
        return
    item = {"index": row.index, "prompt": row.asked, "output": outcome.answer, "finish_reason": outcome.finish_reason}
    work.store.add(
        row.index, {**item, "steps": outcome.steps, "metadata": row.metadata, "usage": usage}, budget.prompt_tokens, budget.completion_tokens
    )


def _keep_files(folder: Path) -> None:
    """What the tools left is part of the result; folders that stayed empty are not."""
    if folder.is_dir() and any(folder.iterdir()):
        sync_tree(folder)
    for empty in (folder, folder.parent, folder.parent.parent):
        with suppress(OSError):  # it is not there, or not empty
            empty.rmdir()


def _ask(row: Row, answering: Answering, work: RowWork, budget: Budget, native: bool) -> Ask:
    step = 0
    inference = work.inference
    if native and inference.skip_special_tokens is None:  # the marks of a call may be special tokens
        inference = replace(inference, skip_special_tokens=False)

    def ask(prompt: str, stop: tuple[str, ...]) -> Answered:
        nonlocal step
        own = () if inference.stop is None else (inference.stop,) if isinstance(inference.stop, str) else inference.stop
        seed = work.seed + STEP_SEED * step
        step += 1
        answer = answering.ask(row.index, prompt, replace(inference, stop=(*own, *stop) or None), seed, budget.over)
        if answer is None:
            budget.check()
            raise OutOfTime
        budget.prompt_tokens += answer.prompt_tokens
        budget.completion_tokens += answer.completion_tokens
        output = answer.outputs[0]
        return Answered(output["text"], output["finish_reason"], answer.prompt_tokens, answer.completion_tokens)

    return ask


def _sampling(spec: TaskSpec, settings: AgentSettings) -> Inference:
    """`inference`, with what it leaves open from `agent`; one answer at a time."""
    open_ = {name: value for name, value in settings.sampling.items() if getattr(spec.inference, name) is None}
    try:
        inference = msgspec.convert({**msgspec.to_builtins(spec.inference), **open_}, Inference)
    except msgspec.ValidationError as error:
        raise ExecutorError("BadSetting", f"agent: {error}") from error
    return replace(inference, n=None, logprobs=None)


def _is_native(settings: AgentSettings, answering: Answering) -> bool:
    able = takes_tools(answering.tokenizer)
    if settings.tool_calls == "native" and not able:
        raise ExecutorError("UnsupportedSetting", "agent.tool_calls is native, and the model's chat template takes no tools; use auto or text")
    return able and settings.tool_calls != "text"


def _turns(row: Row, spec: TaskSpec, settings: AgentSettings) -> list[Turn]:
    turns = conversation(row) or ([{"role": "user", "content": row.text}] if row.text else None)
    if turns is None:
        raise ExecutorError("NoPrompt", "the row has neither a prompt, nor messages, nor a text")
    inference = spec.inference
    said = (settings.system_prompt or inference.system_prompt, inference.append_system_prompt, settings.task if spec.data is not None else "")
    if (system := "\n\n".join(text for text in said if text)) and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": system}, *turns]
    return turns


def _summary(store: RowStore) -> dict[str, Any]:
    """A single question's steps stand at the top of the result, too."""
    item = msgspec.json.decode(next(iter(store.records())))
    return {"output": item.get("output"), "steps": item.get("steps", [])}
