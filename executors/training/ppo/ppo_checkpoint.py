"""A PPO training between two updates, on disk: weights that are trained, optimiser, schedule, random state and what was told so far.

Going on from it gives the same curve as never having stopped.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from msgspec import Struct

from mloc.executors.contract import ExecutorError
from mloc.executors.durable_files import link_or_copy
from mloc.executors.training.saved_checkpoints import SEAL, seal

STATE_FILE = "ppo_state.pt"
BEST_FILE = "best_weights.pt"  # of the evaluation that was best: beside the checkpoints, and in each, so that one is enough to go on from


class Progressed(Struct):
    """How far a training is. `history`: one entry a logged update or evaluation. `worse`: evaluations since it last got better."""

    step: int = 0
    kl_coef: float = 0.0
    tokens: int = 0
    history: list[dict[str, float]] = []
    evaluated: int = -1  # the last update after which there was an evaluation
    best_metric: float | None = None
    best_step: int = 0
    worse: int = 0
    sampled_tokens: int = 0  # of `tokens`


def random_state() -> dict[str, Any]:
    """Of every generator that sampling uses."""
    import torch

    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def save(
    folder: Path, model: Any, optimizer: Any, scheduler: Any, at: Progressed, random: list[dict[str, Any]], scaler: Any = None
) -> tuple[Path, str]:  # fmt: skip
    """Write `checkpoint-<step>` below `folder`, durably; gives it and its digest. `random`: of each rank. `scaler`: of gradients in float16."""
    import torch

    place = folder / f"checkpoint-{at.step}"
    place.mkdir(parents=True, exist_ok=True)
    state = {"trained": _trained(model), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "random": random}
    if scaler is not None:
        state["scaler"] = scaler.state_dict()
    torch.save(state, place / STATE_FILE)
    if (best := folder / BEST_FILE).is_file():
        link_or_copy(best, place / BEST_FILE)
    told = {
        "global_step": at.step, "kl_coef": at.kl_coef, "num_input_tokens_seen": at.tokens, "log_history": at.history, "evaluated": at.evaluated,
        "best_metric": at.best_metric, "best_global_step": at.best_step, "worse": at.worse,
        "sampled_tokens": at.sampled_tokens,
    }  # fmt: skip
    (place / SEAL).write_text(json.dumps(told))
    return place, seal(place)


def restore(place: Path, model: Any, optimizer: Any, scheduler: Any, ranks: int = 1, rank: int = 0, scaler: Any = None) -> Progressed:
    """Put everything back as it was saved; with another number of ranks, they sample anew. Raises ExecutorError where it cannot be."""
    import torch

    try:
        state = torch.load(place / STATE_FILE, map_location="cpu", weights_only=True)
        told = json.loads((place / SEAL).read_text())
        _put_back(model, state["trained"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        if scaler is not None and "scaler" in state:
            scaler.load_state_dict(state["scaler"])
        random = [state["random"]] if isinstance(state["random"], dict) else state["random"]  # once there was one rank only
        if len(random) == ranks:
            _set_random(random[rank])
        added = ("evaluated", "worse", "sampled_tokens", "best_metric")  # once there were none
        return Progressed(
            told["global_step"], told["kl_coef"], told["num_input_tokens_seen"], told["log_history"],
            best_step=told.get("best_global_step", 0), **{name: told[name] for name in added if name in told},
        )  # fmt: skip
    except (OSError, KeyError, RuntimeError, ValueError, EOFError) as error:
        raise ExecutorError("BadCheckpoint", f"the checkpoint {place} cannot be gone on from: {error}") from error


def save_best(folder: Path, model: Any) -> None:
    """Keep the trained weights as they are now, in place of those that were best before."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{BEST_FILE}.partial"
    torch.save(_trained(model), partial)
    partial.replace(folder / BEST_FILE)


def carry_best(checkpoint: Path, folder: Path) -> None:
    """The best weights of the attempts before, as `checkpoint` has them, into this attempt's `folder`."""
    if (best := checkpoint / BEST_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        link_or_copy(best, folder / BEST_FILE)


def take_best(folder: Path, model: Any) -> None:
    """Put the best weights into the model; they have served then."""
    import torch

    _put_back(model, torch.load(folder / BEST_FILE, map_location="cpu", weights_only=True))
    (folder / BEST_FILE).unlink()


def _trained(model: Any) -> dict[str, Any]:
    return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


def _put_back(model: Any, trained: dict[str, Any]) -> None:
    import torch

    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in trained.items():
            parameters[name].copy_(tensor)


def _set_random(state: dict[str, Any]) -> None:
    import torch

    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def keep_newest(folder: Path, most: int) -> None:
    """Delete older checkpoints than the newest `most`."""
    found = sorted((int(match[1]), path) for path in folder.iterdir() if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)))
    for _, path in found[:-most]:
        shutil.rmtree(path, ignore_errors=True)
