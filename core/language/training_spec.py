"""Rewards, reward models, evaluation and starting weights of training tasks. The trainer's own arguments pass through by name."""

from typing import Annotated, Any, Literal

import msgspec

from mloc.core.language.model_spec import ModelSource
from mloc.core.language.section import Names, NonNegativeInt, Section, also


class RewardModel(Section, frozen=True):
    """What scores a rollout: a hub model, a classifier, or one that an earlier stage trained."""

    identifier: str = ""
    type: Literal["sentiment", "classifier", "trained"] = "classifier"
    source: ModelSource | None = None
    path: str | None = None
    url: str | None = None
    task_id: Annotated[str | None, also("task_id")] = msgspec.field(name="taskId", default=None)


class Reward(Section, frozen=True):
    """One term of the reward of `grpo` and `rloo`; the terms are summed by weight."""

    type: Literal["accuracy", "format", "regex", "json_schema", "length", "python", "model"]
    weight: float = 1.0
    name: str | None = None
    column: Annotated[str | None, also("answer_column", "reference_column")] = None
    pattern: Annotated[str | None, also("regex")] = None
    json_schema: Annotated[dict[str, Any] | None, also("schema")] = msgspec.field(default=None)
    min_length: NonNegativeInt | None = None
    max_length: NonNegativeInt | None = None
    target_length: NonNegativeInt | None = None
    code: Annotated[str | None, also("function")] = None
    model: RewardModel | str | None = None


class Gate(Section, frozen=True):
    """The evaluation fails the task unless the metric reaches `min`, or is better than that of another task."""

    metric: str = ""
    min: float | None = None
    better_than: float | str | None = None


class Eval(Section, frozen=True):
    """How a model is judged."""

    harness: Literal["lm-eval", "exact_match", "judge"] = "exact_match"
    tasks: Names = ()
    num_fewshot: NonNegativeInt | None = None
    limit: Annotated[float, msgspec.Meta(gt=0)] | None = None
    judge: RewardModel | str | None = None
    gate: Gate | None = None


class CheckpointLoad(Section, frozen=True):
    """Weights or an adapter to start from. Of `url`, `path` and `task_id` the first that is there is used."""

    type: Literal["http", "local"] = "local"
    path: str | None = None
    url: str | None = None
    task_id: Annotated[str | None, also("task_id")] = msgspec.field(name="taskId", default=None)
    headers: dict[str, str] = {}
    archive_format: str | None = None


class Checkpoint(Section, frozen=True):
    """What a task starts from."""

    load: CheckpointLoad | None = None
