"""One call of `generate` for a batch of prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from mloc.core.language.inference_spec import Inference
from mloc.executors.contract import ExecutorError
from mloc.executors.model_loading import LoadedModel
from mloc.executors.sampling import cut_at_stop, generate_arguments


class Answer(Struct, frozen=True):
    """What a prompt got: `outputs` has {text, finish_reason, logprobs} for each of the `n` that were asked for."""

    outputs: list[dict[str, Any]]
    prompt_tokens: int
    completion_tokens: int


def answer_batch(
    prompts: list[str], inference: Inference, engine: LoadedModel, seed: int | None, stopping: Callable[[], bool]
) -> list[Answer] | None:
    """An answer for each prompt; None where the attempt was asked to stop meanwhile. Raises ExecutorError for a prompt that is too long."""
    import torch

    tokenizer, model = engine.tokenizer, engine.model
    encoded = _encode(prompts, inference, tokenizer)
    _check_room(encoded, inference, model)
    if seed is not None:
        torch.manual_seed(seed)
    arguments = generate_arguments(inference, tokenizer)
    with torch.inference_mode():
        made = model.generate(
            **encoded.to(model.device), **arguments, pad_token_id=tokenizer.pad_token_id, return_dict_in_generate=True,
            stopping_criteria=[_asked_to_stop(stopping)],
        )  # fmt: skip
    if stopping():
        return None
    answers = made.sequences[:, encoded["input_ids"].shape[1] :]  # [prompts * n, longest answer]
    ends = _end_tokens(arguments, model, tokenizer)
    copies = inference.n or 1
    outputs = [_output(tokens, row, made, ends, inference, engine) for row, tokens in enumerate(answers.tolist())]
    asked = encoded["attention_mask"].sum(1).tolist()
    return [_answer_of(outputs[row * copies : (row + 1) * copies], count) for row, count in enumerate(asked)]


def _encode(prompts: list[str], inference: Inference, tokenizer: Any) -> Any:
    # A chat template writes the special tokens itself.
    special = not (inference.chat != "off" and getattr(tokenizer, "chat_template", None))
    limit = inference.truncate_prompt_tokens
    if limit is not None and limit > 0:
        tokenizer.truncation_side = "left"
        return tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=special, truncation=True, max_length=limit)
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=special)
    encoded.pop("token_type_ids", None)
    return encoded


def _check_room(encoded: Any, inference: Inference, model: Any) -> None:
    room = getattr(model.config, "max_position_embeddings", None)
    longest = int(encoded["attention_mask"].sum(1).max())
    if room is not None and longest >= room:
        raise ExecutorError("PromptTooLong", f"the prompt has {longest} tokens and the model takes {room}; set inference.truncate_prompt_tokens")


def _asked_to_stop(stopping: Callable[[], bool]) -> Callable[..., Any]:
    """Ends the generation of all rows at the next token."""

    def ended(input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        return torch.full((input_ids.shape[0],), stopping(), dtype=torch.bool, device=input_ids.device)

    return ended


def _end_tokens(arguments: dict[str, Any], model: Any, tokenizer: Any) -> set[int]:
    ends = arguments.get("eos_token_id", model.generation_config.eos_token_id)
    if ends is None:
        ends = tokenizer.eos_token_id
    return set(ends) if isinstance(ends, list | tuple) else {ends}


def _output(tokens: list[int], row: int, made: Any, ends: set[int], inference: Inference, engine: LoadedModel) -> dict[str, Any]:
    length = next((at for at, token in enumerate(tokens) if token in ends), None)
    kept = tokens if length is None else tokens[:length]
    pad = engine.tokenizer.pad_token_id
    while length is None and kept and kept[-1] == pad:  # a row that a stop string ended is padded to the longest
        kept = kept[:-1]
    text = engine.tokenizer.decode(kept, skip_special_tokens=inference.skip_special_tokens is not False)
    cut = cut_at_stop(text, inference)
    is_finished = length is not None or cut != text or len(kept) < len(tokens)
    output = {"text": cut, "finish_reason": "stop" if is_finished else "length", "tokens": len(kept) + (length is not None)}
    if inference.logprobs is not None:
        output["logprobs"] = [_logprobs(made.logits[at][row], token, inference.logprobs, engine.tokenizer) for at, token in enumerate(kept)]
    return output


def _logprobs(logits: Any, token: int, top: int, tokenizer: Any) -> dict[str, Any]:
    """{token, logprob, top: the likeliest ones}; `logits` [vocabulary] before any sampling setting."""
    import torch

    scores = torch.log_softmax(logits.float(), -1)
    values, ids = scores.topk(scores.shape[0] if top < 0 else top)
    likeliest = [{"token": tokenizer.decode([i]), "logprob": round(v, 5)} for v, i in zip(values.tolist(), ids.tolist(), strict=True)]
    return {"token": tokenizer.decode([token]), "logprob": round(float(scores[token]), 5), "top": likeliest}


def _answer_of(outputs: list[dict[str, Any]], prompt_tokens: int) -> Answer:
    made = sum(output.pop("tokens") for output in outputs)
    return Answer(outputs, prompt_tokens, made)
