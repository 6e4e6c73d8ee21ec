"""Which token comes next: the likeliest, or one drawn by the row's own random numbers, so that neither the other rows of its batch nor the
attempt changes what a row gets."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from mloc.core.language.inference_spec import Inference
from mloc.executors.inference.guidance import GuidedRow


class Sampling(Struct, frozen=True):
    """How tokens are drawn; `temperature` 0 draws none."""

    temperature: float
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0


def sampling_of(inference: Inference, defaults: Any) -> Sampling:
    """What is unset is as the model's own generation settings have it."""
    drawn = inference.do_sample
    if drawn is None:
        drawn = bool(defaults.do_sample) if inference.temperature is None else inference.temperature > 0
    if not drawn:
        return Sampling(0.0)

    def set_to(name: str, otherwise: float) -> Any:
        given = getattr(inference, name)
        if given is None:
            given = getattr(defaults, name, None)
        return otherwise if given is None else given

    return Sampling(float(set_to("temperature", 1.0)), max(0, set_to("top_k", 0)), float(set_to("top_p", 1.0)), float(set_to("min_p", 0.0)))


def row_chances(seed: int, rows: Sequence[int], copies: int) -> list[random.Random]:
    """A stream of random numbers for each copy of each row, by the task's seed and the row's index."""
    return [random.Random(f"{seed}/{row}/{copy}") for row in rows for copy in range(copies)]


def chooser(sampling: Sampling, chances: Sequence[random.Random], guided: Sequence[GuidedRow]) -> Callable[[Any, Any], Any]:
    """The last logits processor of a greedy `generate`: leaves each row only the token that it gets. `guided`: one a row, or empty."""
    warpers = _warpers(sampling)

    def choose(input_ids: Any, scores: Any) -> Any:  # input_ids [rows, prompt + answer], scores [rows, vocabulary]
        import torch

        if guided:
            scores = _held(scores, guided)
        if sampling.temperature == 0:
            tokens = scores.argmax(-1)
        else:
            for warp in warpers:
                scores = warp(input_ids, scores)
            tokens = _drawn(scores, chances)
        if guided:
            tokens = torch.tensor([_settled(row, int(token)) for row, token in zip(guided, tokens, strict=True)], device=scores.device)
        return torch.full_like(scores, float("-inf")).scatter_(1, tokens[:, None], 0.0)

    return choose


def _warpers(sampling: Sampling) -> list[Any]:
    """transformers' own, in the order in which generate has them."""
    if sampling.temperature == 0:
        return []
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    made: list[Any] = [TemperatureLogitsWarper(sampling.temperature)] if sampling.temperature != 1 else []
    made += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    made += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    made += [MinPLogitsWarper(sampling.min_p)] if sampling.min_p else []
    return made


def _drawn(scores: Any, chances: Sequence[random.Random]) -> Any:
    """Each row's token, where its random number falls among the summed likelihoods."""
    import torch

    summed = torch.softmax(scores.double(), -1).cumsum(-1)
    falls = torch.tensor([[chance.random()] for chance in chances], dtype=summed.dtype, device=summed.device) * summed[:, -1:]
    return torch.searchsorted(summed, falls, right=True)[:, 0].clamp(max=scores.shape[1] - 1)


def _held(scores: Any, guided: Sequence[GuidedRow]) -> Any:
    """Scores of only the tokens that each row may take; where another setting forbids all of them, that setting gives way."""
    import torch

    held = []
    for row, own in zip(guided, scores, strict=True):
        if row.ended:
            held.append(own)
            continue
        allowed = row.allowed()[: own.shape[0]].to(own.device)
        kept = own.masked_fill(~allowed, float("-inf"))
        held.append(kept if bool(torch.isfinite(kept).any()) else torch.zeros_like(own).masked_fill(~allowed, float("-inf")))
    return torch.stack(held)


def _settled(row: GuidedRow, token: int) -> int:
    if row.ended:
        return token
    settled = row.settled(token)
    row.take(settled)
    return settled
