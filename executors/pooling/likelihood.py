"""How likely a causal language model finds a text after another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from mloc.executors.contract import ExecutorError
from mloc.executors.models.model_loading import LoadedModel


class Likelihood(Struct, frozen=True):
    """`logprob`: of the whole answer, a natural logarithm; `answer_tokens` of it after `prompt_tokens`."""

    logprob: float
    answer_tokens: int
    prompt_tokens: int

    @property
    def a_token(self) -> float:
        """The mean, which does not grow with the answer's length."""
        return self.logprob / self.answer_tokens


def likelihoods(pairs: Sequence[tuple[str, str]], engine: LoadedModel, is_chat: bool) -> list[Likelihood]:
    """For each (what comes before, answer). Raises ExecutorError for one that does not fit into the model, or an answer without tokens."""
    import torch

    tokenizer, model = engine.tokenizer, engine.model
    encoded = [scored_tokens(before, answer, tokenizer, is_chat) for before, answer in pairs]
    room = getattr(model.config, "max_position_embeddings", None)
    longest = max(len(ids) for ids, _ in encoded)
    if room is not None and longest > room:
        raise ExecutorError("TextTooLong", f"prompt and answer have {longest} tokens together, and the model takes {room}")
    ids = torch.full((len(encoded), longest), tokenizer.pad_token_id or 0)
    mask = torch.zeros_like(ids)
    for row, (tokens, _) in enumerate(encoded):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    with torch.inference_mode():
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
    return [_of_row(logits[row], tokens, start) for row, (tokens, start) in enumerate(encoded)]


def scored_tokens(before: str, answer: str, tokenizer: Any, is_chat: bool) -> tuple[list[int], int]:
    """(tokens, where the answer begins). The first token of all has nothing before it, so it is never part of what is scored."""
    prompt = tokenizer(before, add_special_tokens=not is_chat)["input_ids"] if before else []
    said = tokenizer(answer, add_special_tokens=False)["input_ids"]
    if not prompt and tokenizer.bos_token_id is not None:
        prompt = [tokenizer.bos_token_id]
    if not said:
        raise ExecutorError("NoText", "there is no answer to score: the text is empty")
    tokens = [*prompt, *said]
    start = max(1, len(prompt))
    if start >= len(tokens):
        raise ExecutorError("NoText", "a text of one token has nothing to be scored by")
    return tokens, start


def _of_row(logits: Any, tokens: list[int], start: int) -> Likelihood:
    """`logits` [longest, vocabulary] of a row padded on the right."""
    import torch

    scores = torch.log_softmax(logits[start - 1 : len(tokens) - 1].float(), -1)
    wanted = torch.tensor(tokens[start:], device=scores.device)
    logprob = float(scores.gather(1, wanted[:, None]).sum())
    return Likelihood(logprob, len(tokens) - start, start)
