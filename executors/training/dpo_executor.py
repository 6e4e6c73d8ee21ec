"""Direct preference optimisation with TRL (`dpo`), with any of its loss types (`training.loss_type`). Rafailov et al. 2023, arXiv:2305.18290."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mloc.core.host_frames import RunTask
from mloc.executors.contract import Context, Report
from mloc.executors.training.preferences import equal_pairs, preference_examples
from mloc.executors.training.trl_training import Prepared, Recipe, train

MEASURES = {"loss": "loss", "margin": "rewards/margins", "accuracy": "rewards/accuracies"}


def load(task: RunTask, context: Context) -> None:
    """Import the libraries once."""
    import trl

    _ = (trl.DPOTrainer, trl.DPOConfig)


def run(task: RunTask, engine: None, context: Context) -> Iterator[Report]:
    """The reference is the model that training starts with."""
    from trl import DPOConfig

    yield from train(task, context, Recipe(DPOConfig, preference_examples, _trainer, MEASURES, needs_reference=True, notes=equal_pairs))


def _trainer(made: Prepared) -> Any:
    from datasets import Dataset
    from trl import DPOTrainer

    return DPOTrainer(train_dataset=Dataset.from_list(made.examples), **made.given)
