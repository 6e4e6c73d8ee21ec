"""What the main job gave, as its results say it: losses, answers before and after the tuning, tokens a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from mloc.services.demo.failure import DemoFailed

Result = TypeVar("Result", bound="Trained | Answered")


class Usage(Struct, frozen=True):
    total_tokens: int = 0
    completion_tokens: int = 0
    latency_sec: float = 0.0


class Point(Struct, frozen=True):
    """One entry of a training's history; the last one has the time that the steps took."""

    loss: float | None = None
    train_runtime: float | None = None


class Training(Struct, frozen=True):
    steps: int
    first_loss: float
    final_loss: float
    history: list[Point]


class Trained(Struct, frozen=True):
    """The result of a training."""

    training: Training
    usage: Usage

    @property
    def losses(self) -> list[float]:
        return [point.loss for point in self.training.history if point.loss is not None]

    @property
    def tokens_per_sec(self) -> float:
        """Over the training steps; over the whole task where they were not timed."""
        steps_sec = next((point.train_runtime for point in reversed(self.training.history) if point.train_runtime), None)
        return self.usage.total_tokens / (steps_sec or self.usage.latency_sec)


class Item(Struct, frozen=True):
    index: int
    prompt: str
    output: str


class Answered(Struct, frozen=True):
    """The result of an inference."""

    items: list[Item]
    usage: Usage

    @property
    def tokens_per_sec(self) -> float:
        return self.usage.completion_tokens / self.usage.latency_sec


class Pair(Struct, frozen=True):
    """One question, and what the model said before and after the tuning."""

    question: str
    before: str
    after: str


def trained(stage: str, result: bytes) -> Trained:
    """Raises DemoFailed where the training's result is none, or its loss did not fall."""
    found = _decoded(stage, result, Trained)
    if not found.training.final_loss < found.training.first_loss:
        raise DemoFailed(f"the loss of {stage} did not fall: {found.training.first_loss} → {found.training.final_loss}")
    if found.usage.total_tokens <= 0 or found.usage.latency_sec <= 0:
        raise DemoFailed(f"the result of {stage} counts no tokens: {found.usage}")
    return found


def answered(stage: str, result: bytes) -> Answered:
    """Raises DemoFailed where the inference's result is none."""
    found = _decoded(stage, result, Answered)
    if found.usage.completion_tokens <= 0 or found.usage.latency_sec <= 0:
        raise DemoFailed(f"the result of {stage} counts no tokens: {found.usage}")
    return found


def compared(before: Answered, after: Answered) -> list[Pair]:
    """Question by question. Raises DemoFailed where one is missing, or where the tuning changed no answer."""
    asked = [(item.index, item.prompt) for item in before.items]
    if not asked or asked != [(item.index, item.prompt) for item in after.items]:
        raise DemoFailed(f"{len(before.items)} questions were answered before the tuning and {len(after.items)} after it, or others")
    pairs = [Pair(one.prompt, one.output, other.output) for one, other in zip(before.items, after.items, strict=True)]
    if all(pair.before == pair.after for pair in pairs):
        raise DemoFailed("the tuned model answers exactly as the model before it")
    return pairs


def changed_first(pairs: Sequence[Pair]) -> list[Pair]:
    """What the tuning changed, then the rest, each in the order of the questions."""
    return sorted(pairs, key=lambda pair: pair.before == pair.after)


def _decoded(stage: str, result: bytes, type: type[Result]) -> Result:
    try:
        return msgspec.json.decode(result, type=type)
    except msgspec.MsgspecError as error:
        raise DemoFailed(f"the result of {stage} is not what it should be: {error}") from error
