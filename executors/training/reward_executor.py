"""A reward model from preferences, with TRL (`reward`): one number for a conversation. Bradley-Terry loss, Ouyang et al. 2022, arXiv:2203.02155."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError, Report
from mloc.executors.models.model_loading import LoadedModel, as_classifier
from mloc.executors.training.preferences import equal_pairs, preference_examples
from mloc.executors.training.trained_weights import adapter_of, is_quantized
from mloc.executors.training.trl_training import Prepared, Recipe, load_trainable, train

MEASURES = {"loss": "loss", "accuracy": "accuracy", "margin": "margin"}


def load(task: RunTask, context: Context) -> None:
    """Import the libraries once."""
    import trl

    _ = (trl.RewardTrainer, trl.RewardConfig)


def run(task: RunTask, engine: None, context: Context) -> Iterator[Report]:
    """The model's language head is replaced by one that gives a single logit."""
    from trl import RewardConfig

    yield from train(task, context, Recipe(RewardConfig, preference_examples, _trainer, MEASURES, load=_load, notes=equal_pairs))


def _load(spec: TaskSpec, context: Context, task_texts: Iterable[str]) -> LoadedModel:
    if is_quantized(spec):
        said = "model.adapter.type qlora: the weights of a reward model are not kept in four bits; use type lora"
        raise ExecutorError("UnsupportedSetting", said)
    loaded = load_trainable(spec, context, task_texts)
    if adapter_of(spec) is not None and loaded.weights is not None and loaded.weights.adapter is not None:
        said = "model.adapter of a reward model goes on top of whole weights, and model.source is an adapter already: train without model.adapter"
        raise ExecutorError("UnsupportedSetting", said)
    return as_classifier(loaded)


def _trainer(made: Prepared) -> Any:
    from datasets import Dataset
    from trl import RewardTrainer

    return RewardTrainer(train_dataset=Dataset.from_list(made.examples), **made.given)
