"""What vLLM tells of the requests of one task, in numbers for its telemetry and its result."""

from __future__ import annotations

from typing import Any

from mloc.executors.inference.first_tokens import FirstTokens

ONE_OF = 16  # requests is looked at more closely


class EngineMetrics:
    """Adds up into `metrics`: time to the first token (seconds, mean of the requests that are looked at), tokens of the prompts, and how many of
    them came from the cache."""

    def __init__(self, metrics: dict[str, float], devices: int) -> None:
        self._metrics = metrics
        self._devices = devices
        self._first_tokens = FirstTokens(metrics)
        self._asked = self._ended = self._prompt_tokens = self._cached = 0

    def begins_looked_at(self) -> bool:
        """Count a request that begins; whether its first token is to be waited for. To look at each would cost more than it tells."""
        self._asked += 1
        return self._asked % ONE_OF == 1

    def add(self, output: Any, first_token_sec: float | None) -> None:
        """A request that has ended, as vLLM's RequestOutput."""
        self._ended += 1
        self._prompt_tokens += len(output.prompt_token_ids or ())
        self._cached += output.num_cached_tokens or 0
        self._metrics |= {"prompt_tokens": float(self._prompt_tokens), "cached_prompt_tokens": float(self._cached)}
        if first_token_sec is not None:
            self._first_tokens.add(first_token_sec)
        if self._devices and self._ended % ONE_OF == 1 and (used := _device_memory()) is not None:
            self._metrics["gpu_memory_peak_bytes"] = max(self._metrics.get("gpu_memory_peak_bytes", 0.0), used)


def _device_memory() -> float | None:
    """Bytes in use on the first device, asked of the driver: this process holds none of them. None where the driver's library is missing."""
    import torch

    try:
        return float(torch.cuda.device_memory_used(0))
    except (ImportError, RuntimeError):  # a figure that one can do without
        return None
