"""One call of `generate` for a batch of prompts."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mloc.core.language.inference_spec import Inference
from mloc.executors.contract import ExecutorError
from mloc.executors.inference.answers import INCOMPLETE, Answer
from mloc.executors.inference.drawing import chooser, row_chances, sampling_of
from mloc.executors.inference.guidance import Guide, GuidedRow, Vocabulary, grammar_of
from mloc.executors.inference.sampling import cut_at_stop, generate_arguments, processors
from mloc.executors.models.model_loading import LoadedModel
from mloc.executors.rows.prompts import CUTS_IMAGES, prompt_too_long


def answer_batch(
    asked: list[tuple[int, str]], inference: Inference, engine: LoadedModel, seed: int, stopping: Callable[[], bool],
    images: Sequence[Sequence[Any]] = (), first_token: Callable[[], None] = lambda: None,
) -> list[Answer] | None:  # fmt: skip
    """An answer for each (row index, prompt); None where the attempt was asked to stop meanwhile. What a row gets depends on `seed` and
    its index, not on the other rows. `images`: of each row, or none at all. `first_token` is called when
    the first one of all is there. Raises ExecutorError for a prompt that is too long."""
    import torch

    tokenizer, model = engine.tokenizer, engine.model
    copies = inference.n or 1
    prompts = [prompt for _, prompt in asked for _ in range(copies)]
    if images:
        encoded = _encode_with_images(prompts, [list(of_row) for of_row in images for _ in range(copies)], inference, engine)
    else:
        encoded = _encode(prompts, inference, tokenizer)
    rooms = _rooms(encoded, inference, model)
    arguments = generate_arguments(inference, tokenizer)
    config = _greedy(model, tokenizer, arguments)
    ends = _end_tokens(config, tokenizer)
    guided = _guided([min(room, arguments["max_new_tokens"]) for room in rooms], inference, engine, ends, arguments["max_new_tokens"])
    choose = chooser(sampling_of(inference, model.generation_config), row_chances(seed, [index for index, _ in asked], copies), guided)
    with torch.inference_mode():
        made = model.generate(
            **_on_device(encoded, model), generation_config=config, tokenizer=tokenizer, logits_processor=[*processors(inference), choose],
            stopping_criteria=[_asked_to_stop(stopping, first_token), _context_full(rooms, encoded["input_ids"].shape[1])],
        )  # fmt: skip
    if stopping():
        return None
    answers = made.sequences[:, encoded["input_ids"].shape[1] :]  # [prompts * n, longest answer]
    outputs = [_output(tokens[: rooms[row]], row, made, ends, inference, engine) for row, tokens in enumerate(answers.tolist())]
    counts = encoded["attention_mask"].sum(1).tolist()[::copies]
    return [
        _answer_of(outputs[at * copies : (at + 1) * copies], count, guided[at * copies : (at + 1) * copies]) for at, count in enumerate(counts)
    ]


def _greedy(model: Any, tokenizer: Any, arguments: dict[str, Any]) -> Any:
    """The model's own settings and the task's, without those of drawing, which `chooser` follows."""
    config = copy.deepcopy(model.generation_config)
    config.update(**arguments, pad_token_id=tokenizer.pad_token_id, return_dict_in_generate=True)
    config.do_sample = False
    for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff"):
        setattr(config, name, None)
    return config


def _guided(most: list[int], inference: Inference, engine: LoadedModel, ends: set[int], max_tokens: int) -> list[GuidedRow]:
    """`most`: tokens that each answer may have; none of them more than `max_tokens`."""
    grammar = grammar_of(inference)
    if grammar is None:
        return []
    vocabulary = _once(
        engine, "vocabulary", sorted(ends), lambda: Vocabulary(engine.tokenizer, engine.model.config.get_text_config().vocab_size, sorted(ends))
    )
    guide = _once(engine, "guide", (grammar, max_tokens, sorted(ends)), lambda: Guide(grammar, vocabulary, max_tokens))
    return [GuidedRow(guide, left) for left in most]


def _once(engine: LoadedModel, name: str, key: object, make: Callable[[], Any]) -> Any:
    """What is made for an engine and kept as long as the same is asked for."""
    if name not in engine.made or engine.made[name][0] != key:
        engine.made[name] = (key, make())
    return engine.made[name][1]


def _encode(prompts: list[str], inference: Inference, tokenizer: Any) -> Any:
    # A chat template writes the special tokens itself.
    special = not (inference.chat != "off" and getattr(tokenizer, "chat_template", None))
    limit = inference.truncate_prompt_tokens
    cut: dict[str, Any] = {"truncation": True, "max_length": limit} if limit is not None and limit > 0 else {}
    if cut:
        tokenizer.truncation_side = "left"
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=special, **cut)
    encoded.pop("token_type_ids", None)
    return encoded


def _encode_with_images(prompts: list[str], images: list[list[Any]], inference: Inference, engine: LoadedModel) -> Any:
    """As `_encode`: the chat template, which writes the images' marks, has written the special tokens too."""
    if (inference.truncate_prompt_tokens or 0) > 0:
        raise ExecutorError("BadSetting", CUTS_IMAGES)
    return engine.processor(text=prompts, images=images, return_tensors="pt", padding=True, add_special_tokens=False)


def _on_device(encoded: Any, model: Any) -> Any:
    """On the model's device, pixels in the precision of its weights."""
    return {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in encoded.items() if hasattr(value, "is_floating_point")
    }  # fmt: skip


def _rooms(encoded: Any, inference: Inference, model: Any) -> list[int]:
    """How many tokens each answer may have until the model's context is full. Raises ExecutorError where a prompt fills it."""
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    lengths = encoded["attention_mask"].sum(1).tolist()
    if max(lengths) >= room:
        raise prompt_too_long(max(lengths), room)
    return [room - length for length in lengths]


def _context_full(rooms: Sequence[int], prompt: int) -> Callable[..., Any]:
    """Ends each row where its context is full. `prompt`: tokens of the longest prompt, to which the others are padded."""

    def ended(input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        made = input_ids.shape[1] - prompt
        return torch.tensor([made >= room for room in rooms], device=input_ids.device)

    return ended


def _asked_to_stop(stopping: Callable[[], bool], first_token: Callable[[], None]) -> Callable[..., Any]:
    """Ends the generation of all rows at the next token."""
    seen: list[bool] = []

    def ended(input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        if not seen:
            seen.append(True)
            first_token()
        return torch.full((input_ids.shape[0],), stopping(), dtype=torch.bool, device=input_ids.device)

    return ended


def _end_tokens(config: Any, tokenizer: Any) -> set[int]:
    ends = tokenizer.eos_token_id if config.eos_token_id is None else config.eos_token_id
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


def _answer_of(outputs: list[dict[str, Any]], prompt_tokens: int, guided: list[GuidedRow]) -> Answer:
    made = sum(output.pop("tokens") for output in outputs)
    problem = "" if all(row.complete for row in guided) else INCOMPLETE
    return Answer(outputs, prompt_tokens, made, problem)
