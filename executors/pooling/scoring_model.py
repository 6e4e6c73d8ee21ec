"""What scores rows, whichever engine computes it: how likely a language model finds an answer, or a classifier's number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from mloc.core.language.inference_spec import Inference
from mloc.executors.pooling.likelihood import Likelihood
from mloc.executors.pooling.row_texts import asked_by, plain_text, text_of
from mloc.executors.rows.prompts import prompt_text
from mloc.executors.rows.row_work import RowWork
from mloc.executors.rows.rows import Row, one_response
from mloc.executors.training.rewards.reward_models import Scorer

Scores = list[tuple[dict[str, Any], int]]  # an item's members and its tokens, for each row
Likelihoods = Callable[[Sequence[tuple[str, str]], bool], list[Likelihood]]
"""Of each (what comes before, answer); true where what comes before has a chat template's special tokens already."""


class ScoringModel(Struct, frozen=True):
    """`prepare` reads what is to be scored off a row, `score` scores some of these together; `at_once`: as many as it is to have at a time,
    where the task asks for fewer."""

    name: str
    prepare: Callable[[Row, RowWork], Any]
    score: Callable[[list[Any]], Scores]
    at_once: int = 1


def likelihood_model(name: str, tokenizer: Any, inference: Inference, likelihoods: Likelihoods, at_once: int = 1) -> ScoringModel:
    """A language model."""
    is_chat = bool(getattr(tokenizer, "chat_template", None)) and inference.chat != "off"

    def prepare(row: Row, work: RowWork) -> tuple[str, str]:
        response = one_response(row)
        if response is None:
            return "", text_of(row)
        return prompt_text(row, work.inference, tokenizer), plain_text(response)

    def score(pairs: list[Any]) -> Scores:
        return [
            ({"score": round(one.a_token, 6), "logprob": round(one.logprob, 5), "tokens": one.answer_tokens}, one.prompt_tokens + one.answer_tokens)
            for one in likelihoods(pairs, is_chat)
        ]

    return ScoringModel(name, prepare, score, at_once)


def classifier_model(name: str, scorer: Scorer, at_once: int = 1) -> ScoringModel:
    """A classifier, as a reward model would score it (`reward_model` of `ppo` and `grpo`)."""

    def prepare(row: Row, work: RowWork) -> tuple[Any, str]:
        response = one_response(row)
        return ([], text_of(row)) if response is None else (asked_by(row), plain_text(response))

    def score(pairs: list[Any]) -> Scores:
        return [({"score": round(number, 6)}, 0) for number in scorer([turns for turns, _ in pairs], [answer for _, answer in pairs])]

    return ScoringModel(name, prepare, score, at_once)
