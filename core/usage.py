"""What work took: tokens, requests, seconds. Parts of one task are added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LONGEST = frozenset({"latency_sec"})  # parts run beside each other: the whole takes as long as the slowest


def of_training(tokens: int, written: int, seconds: float) -> dict[str, int | float]:
    """`tokens` that the model went through, `written` of them answers that it sampled to learn from; the others were given to it."""
    return {
        "prompt_tokens": tokens - written, "completion_tokens": written, "total_tokens": tokens, "latency_sec": round(seconds, 3), "num_requests": 0,
    }  # fmt: skip


def total(parts: Iterable[Mapping[str, Any]]) -> dict[str, int | float]:
    """Every number of the parts summed by name; a latency is that of the slowest part. What is no number is left out."""
    added: dict[str, int | float] = {}
    for part in parts:
        for name, value in part.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            added[name] = max(added.get(name, 0), value) if name in LONGEST else added.get(name, 0) + value
    return added
