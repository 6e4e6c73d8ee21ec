"""`inference` in the words of transformers' generate. A setting that it cannot honour is an error, never silently left out."""

from __future__ import annotations

from typing import Any

from mloc.core.language.inference_spec import Inference, names_for_vllm
from mloc.executors.contract import ExecutorError
from mloc.executors.inference.guidance import grammar_of

DEFAULT_MAX_TOKENS = 256

# Neither generate nor what is built around it here can do these.
NOT_POSSIBLE = names_for_vllm()


def check_settings(inference: Inference) -> None:
    """Raises ExecutorError for a setting that is not possible here."""
    asked = [name for name in NOT_POSSIBLE if getattr(inference, name) is not None]
    if inference.detokenize is False:
        asked.append("detokenize")
    if asked:
        names = ", ".join(f"inference.{name}" for name in asked)
        raise ExecutorError("UnsupportedSetting", f"{names}: not possible with the transformers engine; leave it out, or use the vLLM engine")
    if (inference.n or 1) > 1 and not samples(inference):
        raise ExecutorError("UnsupportedSetting", "inference.n above 1 needs sampling: set temperature above 0, or do_sample: true")
    grammar_of(inference)


def samples(inference: Inference) -> bool | None:
    """Whether tokens are drawn at random; None: as the model's own generation settings say."""
    if inference.do_sample is not None:
        return inference.do_sample
    return None if inference.temperature is None else inference.temperature > 0


def generate_arguments(inference: Inference, tokenizer: Any) -> dict[str, Any]:
    """Keyword arguments of `generate`, but for how tokens are drawn; what is unset is left to the model's own generation settings."""
    arguments: dict[str, Any] = {
        "max_new_tokens": max(inference.max_tokens or DEFAULT_MAX_TOKENS, longest_choice(inference)),
        "min_new_tokens": inference.min_tokens,
        "repetition_penalty": inference.repetition_penalty,
        "bad_words_ids": [tokenizer.encode(word, add_special_tokens=False) for word in inference.bad_words or ()] or None,
        "sequence_bias": [[[int(token)], bias] for token, bias in (inference.logit_bias or {}).items()] or None,
        "stop_strings": list(stop_strings(inference)) or None,
        "output_logits": True if inference.logprobs is not None else None,
    }
    kept = {name: value for name, value in arguments.items() if value is not None}
    if inference.ignore_eos:  # the end of the turn is not offered until the answer is full
        kept["min_new_tokens"] = kept["max_new_tokens"]
    if inference.stop_token_ids:
        kept["eos_token_id"] = [*([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []), *inference.stop_token_ids]
    return kept


def longest_choice(inference: Inference) -> int:
    """Tokens that any of the choices fits into: a token has a byte at least, and the answer's end takes one."""
    return max((len(choice.encode()) + 1 for choice in inference.choice or ()), default=0)


def stop_strings(inference: Inference) -> tuple[str, ...]:
    """The texts that end an answer."""
    if inference.stop is None:
        return ()
    return (inference.stop,) if isinstance(inference.stop, str) else inference.stop


def cut_at_stop(text: str, inference: Inference) -> str:
    """The answer up to the first stop string, or with it where that was asked for."""
    for stop in stop_strings(inference):
        at = text.find(stop)
        if at >= 0:
            text = text[: at + (len(stop) if inference.include_stop_str_in_output else 0)]
    return text


def processors(inference: Inference) -> list[Any]:
    """What generate has no argument for."""
    made = []
    if inference.presence_penalty or inference.frequency_penalty:
        made.append(_penalties(inference.presence_penalty or 0.0, inference.frequency_penalty or 0.0))
    if inference.allowed_token_ids is not None:
        made.append(_only(inference.allowed_token_ids))
    return made


def _penalties(presence: float, frequency: float) -> Any:
    """Take `presence` once and `frequency` each time off the score of a token that the answer has already (as OpenAI's API defines it)."""
    prompt_length: list[int] = []

    def penalise(input_ids: Any, scores: Any) -> Any:  # input_ids [rows, prompt + answer], scores [rows, vocabulary]
        import torch

        if not prompt_length:
            prompt_length.append(input_ids.shape[1])
        answer = input_ids[:, prompt_length[0] :]
        counts = torch.zeros_like(scores).scatter_add_(1, answer, torch.ones_like(answer, dtype=scores.dtype))
        return scores - frequency * counts - presence * (counts > 0)

    return penalise


def _only(allowed: tuple[int, ...]) -> Any:
    def keep(input_ids: Any, scores: Any) -> Any:
        import torch

        kept = torch.full_like(scores, float("-inf"))
        kept[:, list(allowed)] = scores[:, list(allowed)]
        return kept

    return keep


