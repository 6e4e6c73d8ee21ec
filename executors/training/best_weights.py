"""The weights that were best so far, within every checkpoint of a Hugging Face trainer: one checkpoint is enough to go on from where the others
are not, as on another machine, and to end with the best."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mloc.executors.durable_files import link_or_copy

FOLDER = "best/weights"  # deeper than transformers looks for adapters: it would load one there in place of that which is trained
OLDER_FOLDER = "best"  # where they lay once
_WEIGHTS = (".safetensors", ".bin")
_FOR_RESUMING = re.compile(r"(optimizer|scheduler|scaler|rng_state|training_args|trainer_state|held-|SHA256SUMS)")


def carry_best(checkpoint: Path, state: Any) -> None:
    """Link the best weights into a new checkpoint; its own are not doubled. What a trainer keeps in parts (DeepSpeed, FSDP) is not carried."""
    if state.best_model_checkpoint is None or (best := Path(state.best_model_checkpoint)) == checkpoint or not has_weights(best):
        return
    (checkpoint / FOLDER).mkdir(parents=True, exist_ok=True)
    for file in best.iterdir():
        if file.is_file() and not _FOR_RESUMING.match(file.name):
            link_or_copy(file, checkpoint / FOLDER / file.name)


def find_best(checkpoint: Path, state: Any) -> str | None:
    """Have the state of a resumed training name the best weights where they are now. Words for a person where they are lost: the best is then
    found anew among what comes."""
    if state.best_metric is None or (state.best_model_checkpoint is not None and Path(state.best_model_checkpoint).is_dir()):
        return None
    own = checkpoint.name.endswith(f"-{state.best_global_step}")
    carried = checkpoint / FOLDER
    place = checkpoint if own else carried if has_weights(carried) else checkpoint / OLDER_FOLDER
    if has_weights(place):
        state.best_model_checkpoint = str(place)
        return None
    said = f"the weights of step {state.best_global_step}, which were best, are not in {checkpoint.name}: the best of what comes is kept"
    state.best_model_checkpoint = state.best_metric = None
    state.best_global_step = 0
    return said


def has_weights(folder: Path) -> bool:
    """Whether a model can be loaded from it."""
    return folder.is_dir() and any(file.suffix in _WEIGHTS and not _FOR_RESUMING.match(file.name) for file in folder.iterdir())
