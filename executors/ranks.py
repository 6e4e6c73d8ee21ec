"""Which rank of a distributed training this process is, by the variables that torchrun and accelerate use; alone it is rank 0 of 1.

They count only beside a mark of ours: libraries set them for a single process too, and a worker may itself have been started by a launcher.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mloc.executors.contract import Context

MARK = "MLOC_TRAINING_RANK"
_LAUNCHERS = frozenset({
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE",
    "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
})  # fmt: skip
_OF_LAUNCHERS = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")  # beginnings of names


def in_rank() -> bool:
    """Whether this process was started as one of several."""
    return MARK in os.environ


def forget_launcher() -> None:
    """Take out of the environment what launchers of distributed trainings put there: libraries would take this process for one of theirs."""
    for name in _told_by_launchers():
        del os.environ[name]


@contextmanager
def launchers_variables_kept() -> Iterator[None]:
    """What a library tells of ranks in the environment holds until the end of the attempt that it does so for."""
    before = _told_by_launchers()
    try:
        yield
    finally:
        forget_launcher()
        os.environ.update(before)


def _told_by_launchers() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in _LAUNCHERS or name.startswith(_OF_LAUNCHERS)}


def rank() -> int:
    return int(os.environ["RANK"]) if in_rank() else 0


def threads_each(processes: int) -> int:
    """How many threads each of so many processes computes with, so that they do not wait for each other on the cores that the host has."""
    return max(1, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1) // processes)


def own_devices(context: Context) -> tuple[int, ...]:
    """The devices that this process computes on: in a rank one of those that the attempt has."""
    if not context.devices or not in_rank():
        return context.devices
    return (int(os.environ.get("LOCAL_RANK", "0")),)


def any_rank(flag: bool) -> bool:
    """Whether it is true on any rank: the same answer on all of them, so that none goes on alone."""
    import torch

    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return flag
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    told = torch.tensor([int(flag)], device=device)
    torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
    return bool(told.item())


def sum_of_ranks(number: int) -> int:
    """Of what each rank has: the same answer on all of them. All call it together."""
    import torch

    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return number
    told = torch.tensor([number], device="cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
    torch.distributed.all_reduce(told)
    return int(told.item())


def wait_for_all() -> None:
    """Return when every rank is here."""
    import torch

    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()
