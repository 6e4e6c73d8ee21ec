"""A judge: a model that reads question and answer and gives a mark from 1 to 10, or a model trained to score answers.

A text names a chat model, which is asked and held to one of the ten marks; a mapping is what `reward_model` is, and gives its raw score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mloc.core.language.inference_spec import Inference
from mloc.core.language.model_spec import HuggingFaceSource, LocalSource, Model, StageSource
from mloc.core.language.spec import TaskSpec
from mloc.core.language.training_spec import RewardModel
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.inference import transformers_answers
from mloc.executors.inference.engine_choice import Choice
from mloc.executors.rows.rows import Row, Turn

Judge = Callable[[list[Turn], str, Sequence[str]], float]
"""From the turns up to the answer, the answer, and what was to be said, to a score."""

MARKS = tuple(str(mark) for mark in range(1, 11))
ASKED = (
    "You judge an answer. Give it a mark from 1 (wrong or useless) to 10 (right and complete).\n\n"
    "Question:\n{question}\n\n{reference}Answer:\n{answer}\n\nWrite only the mark, a number from 1 to 10."
)


def load_judge(wanted: RewardModel | str | None, context: Context) -> Judge:
    """Raises ExecutorError where there is no such model."""
    if wanted is None:
        raise ExecutorError("BadSetting", "eval.harness is judge, and eval.judge names no model that judges")
    if isinstance(wanted, RewardModel):
        from mloc.executors.training.rewards.reward_models import load_scorer

        scorer = load_scorer(wanted, context)
        return lambda turns, answer, _: scorer([turns], [answer])[0]
    return _asking(wanted, context)


def _asking(named: str, context: Context) -> Judge:
    engine = transformers_answers.load(TaskSpec("inference", model=Model(source=_source(named, context))), context)
    answering = transformers_answers.answering(engine, context, Choice("transformers", "it is a second model, beside the one that is judged"))
    inference = Inference(temperature=0.0, choice=MARKS)

    def judge(turns: list[Turn], answer: str, references: Sequence[str]) -> float:
        question = "\n".join(str(turn["content"]) for turn in turns)
        reference = f"A right answer:\n{' or '.join(references)}\n\n" if references else ""
        row = Row(0, prompt=ASKED.format(question=question, reference=reference, answer=answer))
        given = answering.ask(0, answering.prompt(row, inference).text, inference, 0, lambda: False)
        assert given is not None
        return float(given.outputs[0]["text"])

    return judge


def _source(named: str, context: Context) -> Any:
    if named in context.inputs or any(one["task_id"] == named for one in context.inputs.values()):
        return StageSource(identifier=named)
    return LocalSource(named) if named.startswith(("/", ".", "~")) else HuggingFaceSource(named)
