"""What the ranks of a PPO training agree on: their metrics as one, and the random state of each for the checkpoint."""

from __future__ import annotations

from typing import Any

SUMMED = ("tokens", "sampled_tokens", "tokens_per_sec")  # of all ranks together; everything else is their mean


def of_all_ranks(told: dict[str, float], accelerator: Any) -> dict[str, float]:
    """One rank's metrics of an update → those of all, the same on each. All ranks call it together, with the same names."""
    if accelerator.num_processes == 1:
        return told
    import torch

    told = {name: value * (accelerator.num_processes if name in SUMMED else 1) for name, value in told.items()}
    values = torch.tensor(list(told.values()), dtype=torch.float32, device=accelerator.device)
    return dict(zip(told, accelerator.reduce(values, "mean").tolist(), strict=True))


def summed(own: dict[str, float], accelerator: Any) -> dict[str, float]:
    """The sum over all ranks, the same on each. All ranks call it together, with the same names."""
    if accelerator.num_processes == 1:
        return own
    import torch

    values = torch.tensor(list(own.values()), dtype=torch.float64, device=accelerator.device)
    return dict(zip(own, accelerator.reduce(values, "sum").tolist(), strict=True))


def random_states(own: dict[str, Any], accelerator: Any) -> list[dict[str, Any]]:
    """The random state of every rank, in their order. All ranks call it together."""
    if accelerator.num_processes == 1:
        return [own]
    from accelerate.utils import gather_object

    found: list[dict[str, Any]] = gather_object([own])
    return found
