"""vLLM's engine inside the host: AsyncLLM on an event loop of its own thread. All rows in flight share its batch.

Its processes (engine core, workers) stay in the host's process group, so that they end with the host whatever ends it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import itertools
import os
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from mloc.executors.contract import ExecutorError
from mloc.executors.inference.adapter_room import room_is_cheap
from mloc.executors.inference.output_tail import OutputTail
from mloc.executors.models.hub import hub_trouble
from mloc.executors.models.image_models import image_processor
from mloc.executors.models.weights import Weights
from mloc.executors.ranks import threads_each

STOP_SEC = 20.0
LOOK_SEC = 0.1  # for how long nobody asks whether the engine is alive, and whether to stop

_ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked child would hold the host's pipes open
    "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # two engines bound to the same cores would wait for each other
    "VLLM_LOGGING_LEVEL": "WARNING",
}  # fmt: skip


class Answered(Struct, frozen=True):
    """vLLM's RequestOutput, and when its first token came (seconds since it was asked), where the request tells."""

    output: Any
    first_token_sec: float | None = None


class VllmEngine:
    """A running engine. `alive` turns false when one of its processes has died."""

    takes_several = True  # tasks at the same time, in one batch
    kept_as: str  # what it is made of, which is settled when it has started

    def __init__(
        self, arguments: Mapping[str, Any], lora_rank: int, max_loras: int, *, on_device: bool = False, only_if_cheap: bool = False
    ) -> None:  # fmt: skip
        """Start it; `arguments` are those of vLLM's AsyncEngineArgs. `only_if_cheap`: with room for adapters only then. Raises ExecutorError."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if only_if_cheap and not room_is_cheap(arguments, on_device=on_device):
            lora_rank = 0
        self.lora_rank = lora_rank
        lora = {"enable_lora": True, "max_lora_rank": lora_rank, "max_loras": max_loras} if lora_rank else {}
        self._tail = OutputTail()
        self._numbers = itertools.count(1)
        self._adapters: dict[str, Any] = {}  # what it is made of → vLLM's request for it
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        config = _engine_config({**lora, **arguments})
        self._thread.start()
        try:
            with self._tail.catching(), _threads_shared(1 if on_device else config.parallel_config.world_size):
                self._llm = self._call(_started(config, keeps_statistics=arguments.get("disable_log_stats") is False))
        except Exception as error:
            self._end_loop()
            raise self._failure(error, "vLLM did not start") from error
        self.processor = self._image_processor(config.model_config)
        """Writes prompts of text and images; None for a model of text alone."""
        self.max_length = int(config.model_config.max_model_len)
        self.batch = int(config.scheduler_config.max_num_seqs)  # requests that it works on at a time; others wait in its queue
        self.model_config = config.model_config.hf_config  # the model's own, as transformers has it
        self.defaults: dict[str, Any] = config.model_config.get_diff_sampling_param()
        self.defaults["do_sample"] = bool(config.model_config.try_get_generation_config().get("do_sample"))
        self._can_sleep = on_device and bool(config.model_config.enable_sleep_mode)
        self._tokenizers: dict[str, Any] = {}

    @property
    def alive(self) -> bool:
        return not self._llm.errored

    @property
    def tokenizer(self) -> Any:
        return self._llm.get_tokenizer()

    def _image_processor(self, config: Any) -> Any:
        if not config.is_multimodal_model:
            return None
        return image_processor(Weights(str(config.model), config.revision), self.tokenizer, trust=bool(config.trust_remote_code))

    def tokenizer_of(self, adapter: Path | None) -> Any:
        """The adapter's own tokenizer where it brings one, else the model's."""
        if adapter is None or not (adapter / "tokenizer_config.json").is_file():
            return self.tokenizer
        if str(adapter) not in self._tokenizers:
            from transformers import AutoTokenizer

            self._tokenizers[str(adapter)] = AutoTokenizer.from_pretrained(adapter)
        return self._tokenizers[str(adapter)]

    def with_adapter(self, folder: Path) -> Any:
        """vLLM's request for the adapter, which is loaded the first time. Raises ExecutorError where it does not fit the model."""
        from vllm.lora.request import LoRARequest

        made_of = f"{folder} {max(file.stat().st_mtime_ns for file in folder.iterdir())}"
        with self._lock:
            if made_of in self._adapters:
                return self._adapters[made_of]
            number = next(self._numbers)
            request = LoRARequest(f"{folder.name}-{number}", number, str(folder))
            try:
                self._call(self._llm.add_lora(request))
            except Exception as error:
                if not self.alive:
                    raise self.death() from error
                said = str(error).strip().splitlines()[0][:400] if str(error).strip() else type(error).__name__
                hint = "merge it into the weights instead (apply: merge)"
                raise ExecutorError("ModelNotLoaded", f"vLLM does not take the adapter in {folder}: {said}; {hint}") from error
            self._adapters[made_of] = request
            return request

    def ask(
        self, tokens: list[int], sampling: Any, lora: Any, then: Callable[[Future[Any]], None] | None = None, images: Sequence[Any] = ()
    ) -> Future[Any]:
        """Begin a request; its future is Answered. `then` is called with it when it is done, on the engine's thread. `images`: of the marks
        among the tokens, where the model has a `processor`."""
        asked = asyncio.run_coroutine_threadsafe(self._answer(tokens, images, sampling, lora, f"r{next(self._numbers)}"), self._loop)
        if then is not None:
            asked.add_done_callback(then)
        return asked

    def pool(self, tokens: list[int], pooling: Any) -> Future[Any]:
        """Begin a request for a vector or scores, of an engine that pools; its future has vLLM's PoolingRequestOutput."""
        return asyncio.run_coroutine_threadsafe(self._pooled(tokens, pooling, f"r{next(self._numbers)}"), self._loop)

    def wait(self, begun: Sequence[Future[Any]], stopping: Callable[[], bool]) -> bool:
        """Whether all of these requests ended before `stopping` came true; the others are taken back. Raises ExecutorError where the engine dies
        meanwhile."""
        waiting: Collection[Future[Any]] = begun
        while waiting := wait(waiting, LOOK_SEC).not_done:
            if not self.alive:
                raise self.death()
            if stopping():
                for one in waiting:
                    one.cancel()
                return False
        return True

    def results(self, begun: Sequence[Future[Any]], stopping: Callable[[], bool] = lambda: False) -> list[Any] | None:
        """What they gave, in their order; None where `stopping` came true before. Raises ExecutorError as `wait` does, and what one failed of."""
        if not self.wait(begun, stopping):
            return None
        if failed := next((one for one in begun if one.exception() is not None), None):
            raise failed.exception() if self.alive else self.death()  # type: ignore[misc]
        return [one.result() for one in begun]

    def death(self) -> ExecutorError:
        """Why it died, for the person whose rows it answered."""
        return self._failure(None, "the vLLM engine died")

    def sleep(self) -> bool:
        """Off the device, the weights in main memory. False where the platform has no such thing."""
        if not self._can_sleep or not self.alive:
            return False
        self._call(self._llm.sleep(1))
        return True

    def wake(self) -> None:
        self._call(self._llm.wake_up())

    def close(self) -> None:
        """End its processes, which frees the device."""
        self._call(_soon(self._llm.shutdown), STOP_SEC)
        self._end_loop()

    async def _answer(self, tokens: list[int], images: Sequence[Any], sampling: Any, lora: Any, name: str) -> Answered:
        """Of a request that gives its output in pieces, these are put together; the first of them is its first token."""
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        began, whole, first_token_sec = time.monotonic(), None, None
        prompt = await self._with_images(tokens, images) if images else tokens_input(tokens)
        async for output in self._llm.generate(prompt, sampling, name, lora_request=lora):
            if whole is not None:
                whole.add(output, aggregate=True)
                continue
            whole = output
            if sampling.output_kind == RequestOutputKind.DELTA:
                first_token_sec = time.monotonic() - began
        return Answered(whole, first_token_sec)

    async def _with_images(self, tokens: list[int], images: Sequence[Any]) -> Any:
        """What vLLM's own processor makes of them, off the loop."""
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        given = {"prompt_token_ids": tokens, "multi_modal_data": {"image": list(images)}}
        (prompt,) = await self._llm.renderer.render_cmpl_async([parse_model_prompt(self._llm.model_config, given)])
        return prompt

    async def _pooled(self, tokens: list[int], pooling: Any, name: str) -> Any:
        from vllm.inputs.engine import tokens_input

        return [output async for output in self._llm.encode(tokens_input(tokens), pooling, name)][-1]

    def _call(self, work: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SEC)

    def _failure(self, error: BaseException | None, what: str) -> ExecutorError:
        cause = self._tail.cause() or (str(error).strip().splitlines() or [""])[0] if error else self._tail.cause()
        if "out of memory" in cause.lower() or "outofmemory" in cause.lower():
            hint = "ask for more memory, or set model.vllm.gpu_memory_utilization, max_model_len or max_num_seqs lower"
            return ExecutorError("OutOfMemory", f"{what}: {cause}; {hint}", retryable=True)
        return ExecutorError("EngineDied", f"{what}: {cause or 'one of its processes was killed'}", retryable=True)


@contextmanager
def _threads_shared(workers: int) -> Iterator[None]:
    """For the start of an engine whose several workers compute on the same cores; each takes what it finds in the environment."""
    before = os.environ.get("OMP_NUM_THREADS")
    if workers > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads_each(workers))
    try:
        yield
    finally:
        if workers > 1:
            os.environ.pop("OMP_NUM_THREADS")
            os.environ.update({} if before is None else {"OMP_NUM_THREADS": before})


def _engine_config(arguments: Mapping[str, Any]) -> Any:
    """vLLM's configuration, which it checks before any process is started. Raises ExecutorError."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    taken = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    if isinstance(arguments.get("pooler_config"), Mapping):
        from vllm.config import PoolerConfig

        arguments = {**arguments, "pooler_config": PoolerConfig(**arguments["pooler_config"])}
    for name in arguments:
        if name not in taken:
            near = difflib.get_close_matches(name, taken, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ExecutorError("UnknownSetting", f"model.vllm.{name} is no argument of vLLM's engine{hint}")
    try:
        # as vLLM batches for offline work: without a context that it knows, its batch is a fraction of that (128 requests, also on a large GPU)
        return AsyncEngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
    except (ValueError, TypeError, OSError, NotImplementedError, ImportError, AssertionError) as error:
        if (trouble := hub_trouble(str(arguments["model"]), error)) is not None:
            raise trouble from error
        hint = ""
        if arguments.get("quantization") == "bitsandbytes" and "bitsandbytes" in str(error):
            hint = "; this vLLM makes no weights of four bits while it loads: name a model that has them (awq, gptq), or load_in_8bit"
        said = f"vLLM does not take the model {arguments['model']} with these settings: {_first_reason(error)}{hint}"
        raise ExecutorError("ModelNotLoaded", said) from error


def _first_reason(error: BaseException) -> str:
    """Pydantic puts its reason below a headline."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if "rror," in line] or lines or [type(error).__name__]
    return reasons[0].partition(" [type=")[0][:800]


async def _started(config: Any, *, keeps_statistics: bool) -> Any:
    """Statistics of each step and token are for vLLM's own log and counters, which nobody reads here, and cost as much as a tenth of a host."""
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_vllm_config(config, disable_log_stats=not keeps_statistics)


async def _soon(work: Callable[[], None]) -> None:
    work()
