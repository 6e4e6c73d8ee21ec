"""Rewards, reward models, evaluation and starting weights of training tasks. The trainer's own arguments pass through by name."""

from typing import Annotated, Any, Literal

import msgspec

from mloc.core.language.model_spec import ModelSource
from mloc.core.language.section import Names, NonNegativeInt, PositiveSeconds, Section, about, also


class RewardModel(Section, frozen=True):
    """What scores a rollout: a hub model, a classifier, or one that an earlier stage trained."""

    identifier: Annotated[str, about("hub name or folder")] = ""
    type: Annotated[Literal["sentiment", "classifier", "trained"], about("what it gives")] = "classifier"
    source: Annotated[ModelSource | None, about("as `model.source`")] = None
    path: Annotated[str | None, about("a folder")] = None
    url: Annotated[str | None, about("an archive")] = None
    task_id: Annotated[str | None, also("task_id"), about("the task that trained it")] = msgspec.field(name="taskId", default=None)


class Reward(Section, frozen=True):
    """One term of the reward of `grpo` and `rloo`; the terms are summed by weight."""

    type: Annotated[Literal["accuracy", "format", "regex", "json_schema", "length", "python", "model"], about("what is rewarded")]
    weight: Annotated[float, about("in the sum")] = 1.0
    name: Annotated[str | None, about("in the report")] = None
    column: Annotated[str | None, also("answer_column", "reference_column"), about("the row's column with the right answer")] = None
    pattern: Annotated[str | None, also("regex"), about("what the answer must match")] = None
    json_schema: Annotated[dict[str, Any] | None, also("schema"), about("what the answer must follow")] = msgspec.field(default=None)
    min_length: Annotated[NonNegativeInt | None, about("in characters")] = None
    max_length: Annotated[NonNegativeInt | None, about("in characters")] = None
    target_length: Annotated[NonNegativeInt | None, about("in characters")] = None
    code: Annotated[str | None, also("function"), about("a Python function: `def reward(prompt, completion, …)`, run in a sandbox")] = None
    timeout_sec: Annotated[PositiveSeconds, also("timeout"), about("for one call of the Python function")] = 30.0
    model: Annotated[RewardModel | str | None, about("that scores it")] = None


class Gate(Section, frozen=True):
    """The evaluation fails the task unless the metric reaches `min`, or is better than that of another task."""

    metric: Annotated[str, about("its name")] = ""
    min: Annotated[float | None, about("the least that passes")] = None
    better_than: Annotated[float | str | None, about("a number, or another task")] = None


class Eval(Section, frozen=True):
    """How a model is judged."""

    harness: Annotated[Literal["lm-eval", "exact_match", "judge"], about("who judges")] = "exact_match"
    tasks: Annotated[Names, about("the harness' tasks")] = ()
    num_fewshot: Annotated[NonNegativeInt | None, about("examples before each question")] = None
    limit: Annotated[Annotated[float, msgspec.Meta(gt=0)] | None, about("so many rows, or below 1 a part of them")] = None
    judge: Annotated[RewardModel | str | None, about("the model that judges: a chat model's name or folder, or as `reward_model`")] = None
    pattern: Annotated[str | None, also("regex"), about("what of an answer is compared: its first group, where it matches last")] = None
    gate: Annotated[Gate | None, about("what it takes to pass")] = None


class CheckpointLoad(Section, frozen=True):
    """Weights or an adapter to start from. Of `path`, `taskId` and `url` the first that is there is used."""

    type: Annotated[Literal["http", "local"], about("where it is")] = "local"
    path: Annotated[str | None, about("a folder")] = None
    url: Annotated[str | None, about("an archive of it")] = None
    task_id: Annotated[str | None, also("task_id"), about("the task that made it")] = msgspec.field(name="taskId", default=None)
    headers: Annotated[dict[str, str], about("sent with the request")] = {}
    archive_format: Annotated[str | None, about("for the record: archives are told apart by their content")] = None


class Checkpoint(Section, frozen=True):
    """What a task starts from."""

    load: Annotated[CheckpointLoad | None, about("weights or an adapter")] = None
