"""Answers rows with vLLM: as many requests in flight as its batch takes, each row recorded when its answer is there."""

from __future__ import annotations

import dataclasses
import queue
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from mloc.core.host_frames import RunTask
from mloc.core.language.model_spec import ScratchSource
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError, Report
from mloc.executors.inference.answers import INCOMPLETE, Answer, record_answer
from mloc.executors.inference.engine_choice import Choice
from mloc.executors.inference.guidance import grammar_of
from mloc.executors.inference.sampling import samples
from mloc.executors.inference.vllm_engine import VllmEngine
from mloc.executors.inference.vllm_metrics import EngineMetrics
from mloc.executors.inference.vllm_settings import (
    MAX_LORAS,
    engine_arguments,
    identity,
    lora_ranks,
    row_seed,
    sampling_arguments,
    structured_arguments,
)
from mloc.executors.models.model_loading import load_model, model_name
from mloc.executors.models.weights import ADAPTER_FILE, Weights, find_adapter, find_weights
from mloc.executors.rows.prompts import prompt_text
from mloc.executors.rows.row_work import RowWork, do_steps, open_work, record_error, rows_to_answer
from mloc.executors.rows.rows import Row

ONLY_TEXT = "vLLM is given only text here: set inference.engine to transformers"
FIRST_AND_LAST = 1 << 30  # tokens between pieces of an answer: it comes with its first token and once it is whole
LOOK_SEC = 0.1  # for how long nobody asks whether the attempt is to stop


class Served(Struct, frozen=True):
    """The model of a task as vLLM gets it. `made`: it must be written to a folder first (from scratch, or with adapters merged in)."""

    model: str
    name: str
    revision: str | None = None
    trust_remote_code: bool = False
    adapter: Path | None = None
    made: bool = False


def check(spec: TaskSpec) -> None:
    """Raises ExecutorError for settings that this engine cannot follow."""
    inference = spec.inference
    if (inference.n or 1) > 1 and not samples(inference):
        raise ExecutorError("UnsupportedSetting", "inference.n above 1 needs sampling: set temperature above 0, or do_sample: true")
    grammar_of(inference)


def identities(spec: TaskSpec, context: Context) -> list[str]:
    """An engine with room for adapters serves tasks without one too."""
    served, arguments = _served(spec, context), _arguments(spec, context)
    model = f"{served.model} {_written(served.model)}"
    return [identity(model, served.revision, arguments, rank) for rank in lora_ranks(_rank(served.adapter), spec.model.vllm)]


def load(spec: TaskSpec, context: Context) -> VllmEngine:
    """Start the engine on the task's model."""
    served, arguments = _served(spec, context), _arguments(spec, context)
    rank = lora_ranks(_rank(served.adapter), spec.model.vllm)[0]
    arguments |= {"trust_remote_code": served.trust_remote_code or bool(arguments.get("trust_remote_code"))}
    if served.revision and "revision" not in arguments:
        arguments["revision"] = served.revision
    folder = Path(tempfile.mkdtemp(prefix="mloc-model-")) if served.made else None
    try:
        if folder is not None:
            _write_model(spec, context, folder)
        return VllmEngine({"model": str(folder or served.model), **arguments}, rank, MAX_LORAS, on_device=bool(context.devices))
    finally:
        if folder is not None:  # its processes have read it
            shutil.rmtree(folder, ignore_errors=True)


def answer_task(task: RunTask, spec: TaskSpec, engine: VllmEngine, context: Context, chosen: Choice) -> Iterator[Report]:
    """Answer the rows that are not recorded yet."""
    check(spec)
    served = _served(spec, context)
    work = replace(open_work(task, context, spec, served.name), engine=chosen.as_result(), metrics={})
    asking = _Asking(work, engine, served.adapter, EngineMetrics(work.metrics, len(context.devices)))
    yield from do_steps(work, asking.steps())


class _Asking:
    """The requests of one task."""

    def __init__(self, work: RowWork, engine: VllmEngine, adapter: Path | None, metrics: EngineMetrics) -> None:
        self._work = work
        self._engine = engine
        self._metrics = metrics
        self._lora = engine.with_adapter(adapter) if adapter is not None else None
        self._tokenizer = engine.tokenizer_of(adapter)
        self._settings = sampling_arguments(work.inference, engine.defaults)
        self._seed = work.context.seed if work.inference.seed is None else work.inference.seed
        self._ended: queue.SimpleQueue[Row] = queue.SimpleQueue()
        self._asked: dict[int, Future[Any]] = {}
        self._most = max(1, engine.batch * 3 // 2 // (work.inference.n or 1))  # what waits in the engine's queue keeps its batch full
        self._sampling(0)  # a setting that is wrong is wrong for every row

    def steps(self) -> Iterator[None]:
        """Ask, and record what is answered, until all rows are or the attempt is asked to stop: then the requests are taken back."""
        rows = rows_to_answer(self._work)
        try:
            while not self._work.context.stopping():
                while len(self._asked) < self._most and (row := next(rows, None)) is not None:
                    self._ask(row)
                if not self._asked:
                    return
                self._take_answers()
                yield
        finally:
            for asked in self._asked.values():
                asked.cancel()

    def _ask(self, row: Row) -> None:
        from vllm.sampling_params import RequestOutputKind

        try:
            tokens = self._tokens(prompt_text(row, self._work.inference, self._tokenizer, ONLY_TEXT))
        except ExecutorError as error:
            return record_error(self._work, row, error.type, error.message)
        sampling = self._sampling(row.index)
        if self._metrics.begins_looked_at() and sampling.n == 1:
            sampling.output_kind, sampling.stream_interval = RequestOutputKind.DELTA, FIRST_AND_LAST
        self._asked[row.index] = self._engine.ask(tokens, sampling, self._lora, lambda _: self._ended.put(row))

    def _tokens(self, text: str) -> list[int]:
        inference = self._work.inference
        # A chat template writes the special tokens itself.
        special = not (inference.chat != "off" and getattr(self._tokenizer, "chat_template", None))
        tokens: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        limit = inference.truncate_prompt_tokens
        if limit is not None and limit > 0:
            tokens = tokens[-limit:]
        room = self._engine.max_length
        if len(tokens) >= room:
            said = f"the prompt has {len(tokens)} tokens and the model takes {room}; set inference.truncate_prompt_tokens"
            raise ExecutorError("PromptTooLong", said)
        return tokens

    def _sampling(self, row: int) -> Any:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMError
        from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams

        inference = self._work.inference
        try:
            held = structured_arguments(inference)
            return SamplingParams(
                **self._settings, seed=row_seed(self._seed, row), output_kind=RequestOutputKind.FINAL_ONLY, skip_clone=True,
                structured_outputs=_made(StructuredOutputsParams, held, "structured_outputs"),
                repetition_detection=_made(RepetitionDetectionParams, inference.repetition_detection, "repetition_detection"),
            )  # fmt: skip
        except (ValueError, TypeError, VLLMError) as error:
            raise ExecutorError("BadSetting", f"vLLM does not take these settings of inference: {error}") from error

    def _take_answers(self) -> None:
        """What has ended, all of it; waits a moment where nothing has."""
        try:
            row = self._ended.get(timeout=LOOK_SEC)
        except queue.Empty:
            if not self._engine.alive:
                raise self._engine.death() from None
            return
        while True:
            self._record(row, self._asked.pop(row.index))
            try:
                row = self._ended.get_nowait()
            except queue.Empty:
                return

    def _record(self, row: Row, asked: Future[Any]) -> None:
        error = asked.exception()
        if error is None:
            answered = asked.result()
            self._metrics.add(answered.output, answered.first_token_sec)
            record_answer(self._work, row, _answer(answered.output, self._work))
        elif not self._engine.alive:
            raise self._engine.death() from error
        else:
            said = error.__cause__ or error
            record_error(self._work, row, type(said).__name__, str(said))


def _made(kind: Any, given: dict[str, Any] | None, where: str) -> Any:
    """One of vLLM's structs of settings, whose names it does not check itself. Raises ExecutorError."""
    if given is None:
        return None
    taken = [field.name for field in dataclasses.fields(kind) if field.init]
    if wrong := next((name for name in given if name not in taken), None):
        raise ExecutorError("UnknownSetting", f"inference.{where}.{wrong} is no setting of vLLM; there are: {', '.join(taken)}")
    return kind(**given)


def _answer(output: Any, work: RowWork) -> Answer:
    inference = work.inference
    outputs = [_output(one, inference.logprobs, inference.detokenize is False) for one in output.outputs]
    if any(one["finish_reason"] not in ("stop", "length", "repetition") for one in outputs):
        raise ExecutorError("RequestAborted", "the engine broke off the request", retryable=True)
    held = structured_arguments(inference) is not None
    problem = INCOMPLETE if held and any(one["finish_reason"] == "length" for one in outputs) else ""
    more: dict[str, Any] = {}
    if output.prompt_logprobs is not None:
        most = inference.prompt_logprobs or 0
        more["prompt_logprobs"] = [None if place is None else _likeliest(place, most) for place in output.prompt_logprobs]
    tokens = sum(len(one.token_ids) for one in output.outputs)
    return Answer(outputs, len(output.prompt_token_ids or ()), tokens, problem, more)


def _output(one: Any, logprobs: int | None, with_tokens: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"text": one.text, "finish_reason": one.finish_reason}
    if with_tokens:
        made["token_ids"] = list(one.token_ids)
    if logprobs is not None:
        made["logprobs"] = [_place(place, token, logprobs) for place, token in zip(one.logprobs or (), one.token_ids, strict=False)]
    return made


def _place(place: dict[int, Any], token: int, most: int) -> dict[str, Any]:
    """{token, logprob, top: the likeliest ones}, as the transformers engine has it; vLLM adds the token itself where it is not among them."""
    chosen = place[token]
    return {"token": chosen.decoded_token, "logprob": round(chosen.logprob, 5), "top": _likeliest(place, most)}


def _likeliest(place: dict[int, Any], most: int) -> list[dict[str, Any]]:
    """`most` of them; below 0: all."""
    ranked = sorted(place.values(), key=lambda one: one.rank or 0)[: most if most >= 0 else None]
    return [{"token": one.decoded_token, "logprob": round(one.logprob, 5)} for one in ranked]


def _arguments(spec: TaskSpec, context: Context) -> dict[str, Any]:
    if not context.devices:
        return engine_arguments(spec, context)
    from vllm.platforms import current_platform

    return engine_arguments(spec, context, int(current_platform.get_device_total_memory(0)))


def _served(spec: TaskSpec, context: Context) -> Served:
    """Raises ExecutorError where the model or an adapter is not there, or where two adapters would have to go on top."""
    source = spec.model.source
    merged = [find_adapter(one.path, one.task_id, one.url, context) for one in spec.model.adapters if one.apply == "merge"]
    on_top = [find_adapter(one.path, one.task_id, one.url, context) for one in spec.model.adapters if one.apply == "runtime"]
    if isinstance(source, ScratchSource) and spec.checkpoint.load is None:
        weights = Weights(f"scratch {msgspec.json.encode(source).decode()}")
        name = source.identifier or "scratch"
    else:
        weights = find_weights(spec, context)
        name = model_name(weights, context)
    if weights.adapter is not None:
        (merged if merged else on_top).append(weights.adapter)
    if len(on_top) > 1:
        raise ExecutorError("UnsupportedSetting", "vLLM puts one adapter on top of a request, and the task names two: merge one (apply: merge)")
    made = bool(merged) or weights.model.startswith("scratch ")
    model = " ".join([weights.model, *(f"+{folder} {_written(str(folder))}" for folder in merged)])
    return Served(model, name, weights.revision, weights.trust_remote_code, on_top[0] if on_top else None, made)


def _write_model(spec: TaskSpec, context: Context, folder: Path) -> None:
    """Made with transformers in main memory: from scratch, or with the adapters that are to be merged."""
    merged = tuple(one for one in spec.model.adapters if one.apply == "merge")
    settings = {"dtype": "auto", **spec.model.transformers}
    made = load_model(replace(spec, model=replace(spec.model, adapters=merged, transformers=settings)), replace(context, devices=()))
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)


def _rank(adapter: Path | None) -> int:
    if adapter is None:
        return 0
    config = msgspec.json.decode((adapter / ADAPTER_FILE).read_bytes())
    return max([int(config.get("r", 8)), *map(int, (config.get("rank_pattern") or {}).values())])


def _written(model: str) -> int:
    """When a folder's files were last written: a model that was made again under the same name is another one."""
    folder = Path(model)
    try:
        return max((file.stat().st_mtime_ns for file in folder.iterdir()), default=0) if folder.is_dir() else 0
    except OSError:
        return 0
