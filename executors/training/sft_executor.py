"""Supervised fine-tuning with TRL: of all weights (`sft`), or of a low-rank adapter (`lora_sft`, `qlora`, or `sft` with `model.adapter`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mloc.core.host_frames import RunTask
from mloc.executors.contract import Context, Report
from mloc.executors.rows.data_loading import examples
from mloc.executors.training.trl_training import Prepared, Recipe, train


def load(task: RunTask, context: Context) -> None:
    """Import the libraries once for all trainings of this host: seconds each time otherwise."""
    import peft
    import trl

    _ = (peft.LoraConfig, trl.SFTTrainer, trl.SFTConfig)  # they import what they need only now


def run(task: RunTask, engine: None, context: Context) -> Iterator[Report]:
    """Examples are chats, pairs of prompt and response, or whole texts."""
    from trl import SFTConfig

    yield from train(task, context, Recipe(SFTConfig, examples, _trainer))


def _trainer(made: Prepared) -> Any:
    from datasets import Dataset
    from trl import SFTTrainer

    return SFTTrainer(train_dataset=Dataset.from_list(made.examples), **made.given)
