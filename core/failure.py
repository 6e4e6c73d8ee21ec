"""Why a task ended without a result, in the same words wherever that stands: in its tree, over HTTP, in what receivers are told."""

from __future__ import annotations

from mloc.core.events import Error


def cancellation(reason: str) -> Error:
    """Of a cancelled task. What failed of it before it was cancelled is not why."""
    return Error("Cancelled", reason or "the task was cancelled", retryable=False)


def timeout(timeout_sec: float) -> Error:
    """Of a task that timed out. `timeout_sec`: what it had; 0 where the log does not say."""
    said = f"the attempt ran longer than timeout_sec = {timeout_sec:g} s" if timeout_sec else "the attempt ran too long"
    return Error("TimedOut", said, retryable=False)
