"""A model for lm-evaluation-harness on an engine of vLLM that runs already; the harness' own would start one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mloc.executors.inference.vllm_engine import VllmEngine
from mloc.executors.inference.vllm_settings import row_seed

LONGEST = 256  # tokens of an answer where the task says nothing


def vllm_model(engine: VllmEngine, tokenizer: Any, lora: Any, seed: int, stopping: Callable[[], bool], stop: Exception) -> Any:
    """`lora`: vLLM's request for the adapter on top, or None. Raises `stop` out of the harness once `stopping` is true."""
    from lm_eval.api.model import TemplateLM

    def answered(begun: Sequence[Any]) -> list[Any]:
        outputs = engine.results(begun, stopping)
        if outputs is None:
            raise stop
        return [one.output for one in outputs]

    class Running(TemplateLM):  # type: ignore[misc]
        """What the harness asks of a causal model."""

        def __init__(self) -> None:
            super().__init__()
            self.tokenizer = tokenizer

        @property
        def eot_token_id(self) -> int:
            return int(tokenizer.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)

        @property
        def tokenizer_name(self) -> str:
            return str(tokenizer.name_or_path).replace("/", "__")

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return str(tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
            ))  # fmt: skip

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            if add_special_tokens is None:  # a text that brings its own mark of the beginning gets no second one
                add_special_tokens = not (tokenizer.bos_token and string.startswith(tokenizer.bos_token))
            return list(tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"])

        def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any) -> list[tuple[float, bool]]:
            found: list[tuple[float, bool]] = []
            for at in range(0, len(requests), engine.batch):
                part = requests[at : at + engine.batch]
                asked = [(before + said)[-(engine.max_length - 1) :] for _, before, said in part]  # it writes one token more
                outputs = answered([engine.ask(tokens, _of_prompt(), lora) for tokens in asked])
                lengths = [len(said) for _, _, said in part]
                found += [_likelihood(*one) for one in zip(outputs, asked, lengths, strict=True)]
            for (named, _, _), one in zip(requests, found, strict=True):
                if named is not None:
                    self.cache_hook.add_partial("loglikelihood", named, one)
            return found

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

            sums = []
            for (text,) in (request.args for request in requests):
                windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, engine.max_length - 2, 1)
                parts = [(None, *make_disjoint_window(window)) for window in windows]
                sums.append(sum(logprob for logprob, _ in self._loglikelihood_tokens(parts)))
            return sums

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            from lm_eval.models.utils import postprocess_generated_text

            written: list[str] = []
            for at in range(0, len(requests), engine.batch):
                part = [request.args for request in requests[at : at + engine.batch]]
                asked = [(*_settings(given, row_seed(seed, at + number), engine, tokenizer), text) for number, (text, given) in enumerate(part)]
                begun = [engine.ask(self.tok_encode(text)[-(engine.max_length - own.max_tokens) :], own, lora) for own, _, text in asked]
                for output, (_, until, _) in zip(answered(begun), asked, strict=True):
                    text = tokenizer.decode(output.outputs[0].token_ids, skip_special_tokens=True)
                    written.append(postprocess_generated_text(text, until, None))
            return written

    return Running()


def _settings(given: dict[str, Any], seed: int, engine: VllmEngine, tokenizer: Any) -> tuple[Any, list[str]]:
    """(vLLM's SamplingParams of what the harness asks for, texts that end the answer). `seed`: where the answer is drawn."""
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    kept = dict(normalize_gen_kwargs(given, LONGEST))
    until = handle_stop_sequences(kept.pop("until", None), eos=tokenizer.decode([tokenizer.eos_token_id]))
    longest, drawn = min(int(kept.pop("max_gen_toks")), engine.max_length - 1), kept.pop("do_sample", False)
    settings = {"temperature": 0.0, **kept, **({"seed": seed} if drawn else {})}
    whole = {"skip_special_tokens": False, "output_kind": RequestOutputKind.FINAL_ONLY}  # a text that ends it may be a special token
    return SamplingParams(**{**settings, **whole}, max_tokens=longest, stop=until), until


def _of_prompt() -> Any:
    """vLLM's SamplingParams of a request that asks what its own tokens are likely."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(temperature=0.0, prompt_logprobs=1, max_tokens=1, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)


def _likelihood(output: Any, tokens: list[int], said: int) -> tuple[float, bool]:
    """(natural logarithm of the last `said` tokens' likelihood, whether each of them was the likeliest)."""
    places = [(output.prompt_logprobs[at], tokens[at]) for at in range(max(1, len(tokens) - said), len(tokens))]
    return sum(place[token].logprob for place, token in places), all(place[token].rank == 1 for place, token in places)
