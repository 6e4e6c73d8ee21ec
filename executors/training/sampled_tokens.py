"""How many tokens a trainer sampled to learn from: TRL counts them among those that the model has seen, and says nowhere how many they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mloc.executors.ranks import sum_of_ranks

_NAME = "SampledTokens"  # among the states of callbacks: what is there lies in each checkpoint, and a training that goes on begins with it


def count_sampled(state: Any, answers: Sequence[Sequence[int]]) -> None:
    """Add the tokens of these answers, and of the other ranks' ones, to the trainer's state. All ranks call it together."""
    count = sampled_tokens(state) + sum_of_ranks(sum(map(len, answers)))
    state.stateful_callbacks[_NAME] = {"args": {}, "attributes": {"tokens": count}}


def sampled_tokens(state: Any) -> int:
    """All that were counted; none by trainers that learn from what they are given."""
    return int(state.stateful_callbacks.get(_NAME, {}).get("attributes", {}).get("tokens", 0))
