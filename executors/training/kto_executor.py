"""Kahneman-Tversky optimisation with TRL (`kto`): answers that are good or bad, not pairs. Ethayarajh et al. 2024, arXiv:2402.01306."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mloc.core.host_frames import RunTask
from mloc.executors.contract import Context, Report
from mloc.executors.training.preferences import labelled_examples
from mloc.executors.training.trl_training import Prepared, Recipe, train

MEASURES = {"loss": "loss", "reward_chosen": "rewards/chosen", "reward_rejected": "rewards/rejected"}


def load(task: RunTask, context: Context) -> None:
    """Import the libraries once."""
    import trl

    _ = (trl.KTOTrainer, trl.KTOConfig)


def run(task: RunTask, engine: None, context: Context) -> Iterator[Report]:
    """Rows have a prompt, a response and a `label` (true or false); a pair of preferences counts as one of each."""
    from trl import KTOConfig

    yield from train(task, context, Recipe(KTOConfig, labelled_examples, _trainer, MEASURES, needs_reference=True))


def _trainer(made: Prepared) -> Any:
    from datasets import Dataset
    from trl import KTOTrainer

    return KTOTrainer(train_dataset=Dataset.from_list(made.examples), **made.given)
