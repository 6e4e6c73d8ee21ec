"""How long answers let one wait for their first token."""

from __future__ import annotations


class FirstTokens:
    """Keeps the mean of all that were added in `metrics`, in seconds."""

    def __init__(self, metrics: dict[str, float]) -> None:
        self._metrics = metrics
        self._seconds = 0.0
        self._count = 0

    def add(self, seconds: float) -> None:
        self._count += 1
        self._seconds += seconds
        self._metrics["time_to_first_token_sec"] = round(self._seconds / self._count, 4)
