"""What vLLM tells of the requests of one task, in numbers for its telemetry and its result."""

from __future__ import annotations

from typing import Any


class EngineMetrics:
    """Adds up into `metrics`: time to the first token (mean, seconds), tokens of the prompts, and how many of them came from the cache."""

    def __init__(self, metrics: dict[str, float], devices: int) -> None:
        self._metrics = metrics
        self._devices = devices
        self._first_token_sec = 0.0
        self._requests = self._prompt_tokens = self._cached = 0

    def add(self, output: Any) -> None:
        """A request that has ended, as vLLM's RequestOutput."""
        self._requests += 1
        self._prompt_tokens += len(output.prompt_token_ids or ())
        self._cached += output.num_cached_tokens or 0
        if output.metrics is not None:
            self._first_token_sec += output.metrics.first_token_latency
        self._metrics |= {
            "time_to_first_token_sec": round(self._first_token_sec / self._requests, 4),
            "prompt_tokens": float(self._prompt_tokens),
            "cached_prompt_tokens": float(self._cached),
        }
        if self._devices and (used := _device_memory()) is not None:
            self._metrics["gpu_memory_peak_bytes"] = max(self._metrics.get("gpu_memory_peak_bytes", 0.0), used)


def _device_memory() -> float | None:
    """Bytes in use on the first device, asked of the driver: this process holds none of them. None where the driver's library is missing."""
    import torch

    try:
        return float(torch.cuda.device_memory_used(0))
    except (ImportError, RuntimeError):  # a figure that one can do without
        return None
