"""However many questions vLLM takes at a time, their images in memory are bounded."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloc.core.language.inference_spec import Inference
from mloc.executors.inference import vllm_answers
from mloc.executors.inference.answers import Question
from mloc.executors.rows.prompts import Prompt
from mloc.executors.rows.rows import Row

MOST = 10


class Requests:
    """Answers at once; knows the pixels of what was begun and not read yet."""

    batch = 4

    def __init__(self) -> None:
        self.pixels = self.highest = self.together = 0
        self.begun: dict[int, int] = {}

    def sampling(self, *_: Any) -> None: ...

    def look(self) -> None: ...

    def encoded(self, texts: list[str], inference: Inference) -> list[list[int]]:
        return [[0] for _ in texts]

    def begin(self, index: int, tokens: list[int], inference: Inference, seed: int, then: Callable[[], None], images: Any) -> Future[Any]:
        self.begun[index] = Prompt("", images).pixels
        self.highest = max(self.highest, sum(self.begun.values()))
        self.together = max(self.together, len(self.begun))
        asked: Future[Any] = Future()
        asked.set_result(index)
        then()
        return asked

    def answer(self, asked: Future[Any], inference: Inference) -> Any:
        del self.begun[asked.result()]
        return asked.result()


@given(st.lists(st.integers(0, 14), max_size=30))
def test_images_in_flight_are_bounded_and_every_row_is_answered(sizes: list[int]) -> None:
    work = SimpleNamespace(inference=Inference(), seed=0, context=SimpleNamespace(stopping=lambda: False))
    questions = [Question(Row(at), Prompt("", (SimpleNamespace(width=size, height=1),) if size else ())) for at, size in enumerate(sizes)]
    answered: list[int] = []
    requests: Any = Requests()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vllm_answers, "MAX_PIXELS", MOST)
        flight = vllm_answers._InFlight(work, requests, lambda question, answer: answered.append(answer))
        for _ in flight.steps(iter(questions)):
            pass
    assert sorted(answered) == list(range(len(sizes)))
    assert requests.highest <= max(MOST, *sizes, 0)
    assert requests.together <= 6
