"""Answers questions with vLLM: as many requests in flight as its batch takes, each recorded when its answer is there."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from mloc.core.language.inference_spec import Inference
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.inference.answers import INCOMPLETE, Answer, Answering, Question, Record
from mloc.executors.inference.engine_choice import Choice
from mloc.executors.inference.guidance import grammar_of
from mloc.executors.inference.sampling import samples
from mloc.executors.inference.vllm_engine import LOOK_SEC, VllmEngine
from mloc.executors.inference.vllm_metrics import EngineMetrics
from mloc.executors.inference.vllm_model import served_model
from mloc.executors.inference.vllm_settings import row_seed, sampling_arguments, structured_arguments
from mloc.executors.rows.pictures import MAX_PIXELS
from mloc.executors.rows.prompts import CUTS_IMAGES, Prompt, prompt_text, prompt_too_long, prompt_with_images
from mloc.executors.rows.row_work import RowWork, record_error
from mloc.executors.rows.rows import Row

TOGETHER = 32  # prompts are encoded, fewer where their images are large
FIRST_AND_LAST = 1 << 30  # tokens between pieces of an answer: it comes with its first token and once it is whole


def check(inference: Inference) -> None:
    """Raises ExecutorError for settings that this engine cannot follow."""
    if (inference.n or 1) > 1 and not samples(inference):
        raise ExecutorError("UnsupportedSetting", "inference.n above 1 needs sampling: set temperature above 0, or do_sample: true")
    grammar_of(inference)


def answering(spec: TaskSpec, engine: VllmEngine, context: Context, chosen: Choice) -> Answering:
    """The engine with the task's adapter on top of its requests. Raises ExecutorError."""
    served = served_model(spec, context)
    metrics: dict[str, float] = {}
    requests = _Requests(engine, served.adapter, EngineMetrics(metrics, len(context.devices)))

    def prompt(row: Row, inference: Inference) -> Prompt:
        if engine.processor is None:
            return Prompt(prompt_text(row, inference, requests.tokenizer))
        return prompt_with_images(row, inference, engine.processor, context.local)

    def steps(work: RowWork, questions: Iterator[Question], record: Record) -> Iterator[None]:
        return _InFlight(work, requests, record).steps(questions)

    return Answering(served.name, requests.tokenizer, prompt, requests.ask, steps, chosen.as_result(), metrics)


Encoded = tuple[Question, list[int]]


class _Requests:
    """The requests of one task: begun, waited for, read."""

    def __init__(self, engine: VllmEngine, adapter: Path | None, metrics: EngineMetrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._lora = engine.with_adapter(adapter) if adapter is not None else None
        self._settings: tuple[Inference, dict[str, Any]] | None = None
        self.tokenizer = engine.tokenizer_of(adapter)
        self.batch = engine.batch

    def begin(
        self, index: int, tokens: list[int], inference: Inference, seed: int, then: Callable[[], None], images: Sequence[Any] = ()
    ) -> Future[Any]:
        """`then` is called when it is done, on the engine's thread. Raises ExecutorError for what cannot be asked."""
        from vllm.sampling_params import RequestOutputKind

        if images and inference.truncate_prompt_tokens is not None:
            raise ExecutorError("BadSetting", CUTS_IMAGES)
        if len(tokens) >= (room := self._engine.max_length):
            raise prompt_too_long(len(tokens), room)
        sampling = self.sampling(index, inference, seed)
        if self._metrics.begins_looked_at() and sampling.n == 1:
            sampling.output_kind, sampling.stream_interval = RequestOutputKind.DELTA, FIRST_AND_LAST
        return self._engine.ask(tokens, sampling, self._lora, lambda _: then(), images)

    def ask(self, index: int, text: str, inference: Inference, seed: int, stopping: Callable[[], bool]) -> Answer | None:
        asked = self.begin(index, self.encoded([text], inference)[0], inference, seed, lambda: None)
        return self.answer(asked, inference) if self._engine.wait([asked], stopping) else None

    def answer(self, asked: Future[Any], inference: Inference) -> Answer:
        """Of a request that has ended. Raises ExecutorError, of the attempt's own where the engine died of it."""
        error = asked.exception()
        if error is None:
            answered = asked.result()
            self._metrics.add(answered.output, answered.first_token_sec)
            return _answer(answered.output, inference)
        if not self._engine.alive:
            raise self._engine.death() from error
        said = error.__cause__ or error
        raise ExecutorError(type(said).__name__, str(said)) from error

    def look(self) -> None:
        """Raises ExecutorError where the engine has died."""
        if not self._engine.alive:
            raise self._engine.death()

    def sampling(self, index: int, inference: Inference, seed: int) -> Any:
        """vLLM's SamplingParams for a row. Raises ExecutorError."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMError
        from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams

        if self._settings is None or self._settings[0] is not inference:
            self._settings = inference, sampling_arguments(inference, self._engine.defaults)
        try:
            held = structured_arguments(inference)
            return SamplingParams(
                **{"skip_clone": True, **self._settings[1]}, seed=row_seed(seed, index), output_kind=RequestOutputKind.FINAL_ONLY,
                structured_outputs=_made(StructuredOutputsParams, held, "structured_outputs"),
                repetition_detection=_made(RepetitionDetectionParams, inference.repetition_detection, "repetition_detection"),
            )  # fmt: skip
        except (ValueError, TypeError, VLLMError) as error:
            raise ExecutorError("BadSetting", f"vLLM does not take these settings of inference: {error}") from error

    def encoded(self, texts: list[str], inference: Inference) -> list[list[int]]:
        """The tokens of each, cut where the task says so. Texts together take a fraction of the time."""
        # A chat template writes the special tokens itself.
        special = not (inference.chat != "off" and getattr(self.tokenizer, "chat_template", None))
        encoded: list[list[int]] = self.tokenizer(texts, add_special_tokens=special)["input_ids"]
        limit = inference.truncate_prompt_tokens
        return [tokens[-limit:] for tokens in encoded] if limit is not None and limit > 0 else encoded


class _InFlight:
    """The questions of one task, as many asked at a time as the engine's batch takes."""

    def __init__(self, work: RowWork, requests: _Requests, record: Record) -> None:
        self._work = work
        self._requests = requests
        self._record = record
        self._ended: queue.SimpleQueue[Question] = queue.SimpleQueue()
        self._asked: dict[int, Future[Any]] = {}
        self._pixels = 0  # of the images of these
        self._held: Encoded | None = None  # the next one, for whose images there is no room yet
        self._most = max(1, requests.batch * 3 // 2 // (work.inference.n or 1))  # what waits in the engine's queue keeps its batch full
        requests.sampling(0, work.inference, work.seed)  # a setting that is wrong is wrong for every row

    def steps(self, questions: Iterator[Question]) -> Iterator[None]:
        """Ask, and record what is answered, until all is or the attempt is asked to stop: then the requests are taken back."""
        encoded = self._encoded(questions)
        try:
            while not self._work.context.stopping():
                while len(self._asked) < self._most and (question := self._next(encoded)) is not None:
                    self._ask(*question)
                if not self._asked:
                    return
                self._take_answers()
                yield
        finally:
            for asked in self._asked.values():
                asked.cancel()

    def _encoded(self, questions: Iterator[Question]) -> Iterator[Encoded]:
        """With their tokens."""
        for some in _in_batches(questions):
            yield from zip(some, self._requests.encoded([one.prompt.text for one in some], self._work.inference), strict=True)

    def _next(self, encoded: Iterator[Encoded]) -> Encoded | None:
        """The next one, unless its images would be too many in memory beside those of the questions that are asked."""
        found = self._held or next(encoded, None)
        pixels = found[0].prompt.pixels if found is not None else 0
        self._held = found if pixels and self._pixels and self._pixels + pixels > MAX_PIXELS else None
        if self._held is not None:
            return None
        self._pixels += pixels
        return found

    def _ask(self, question: Question, tokens: list[int]) -> None:
        work, row = self._work, question.row
        try:
            asked = self._requests.begin(
                row.index, tokens, work.inference, work.seed, lambda: self._ended.put(question), question.prompt.images
            )  # fmt: skip
        except ExecutorError as error:
            self._pixels -= question.prompt.pixels
            return record_error(work, row, error.type, error.message)
        self._asked[row.index] = asked

    def _take_answers(self) -> None:
        """What has ended, all of it; waits a moment where nothing has."""
        try:
            question = self._ended.get(timeout=LOOK_SEC)
        except queue.Empty:
            return self._requests.look()
        while True:
            self._take(question)
            try:
                question = self._ended.get_nowait()
            except queue.Empty:
                return

    def _take(self, question: Question) -> None:
        self._pixels -= question.prompt.pixels
        try:
            answer = self._requests.answer(self._asked.pop(question.row.index), self._work.inference)
        except ExecutorError as error:
            if error.retryable:
                raise
            return record_error(self._work, question.row, error.type, error.message)
        self._record(question, answer)


def _in_batches(questions: Iterator[Question]) -> Iterator[list[Question]]:
    """To encode together; their images are no more than may be in memory, beside those that are asked."""
    batch: list[Question] = []
    for question in questions:
        if batch and sum(one.prompt.pixels for one in batch) + question.prompt.pixels > MAX_PIXELS:
            yield batch
            batch = []
        batch.append(question)
        if len(batch) == TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


def _made(kind: Any, given: dict[str, Any] | None, where: str) -> Any:
    """One of vLLM's structs of settings, whose names it does not check itself. Raises ExecutorError."""
    if given is None:
        return None
    taken = [field.name for field in dataclasses.fields(kind) if field.init]
    if wrong := next((name for name in given if name not in taken), None):
        raise ExecutorError("UnknownSetting", f"inference.{where}.{wrong} is no setting of vLLM; there are: {', '.join(taken)}")
    return kind(**given)


def _answer(output: Any, inference: Inference) -> Answer:
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
