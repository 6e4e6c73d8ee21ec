"""A PPO training on disk: each rank goes on with the random numbers that it would have had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mloc.executors.training.ppo import ppo_checkpoint  # noqa: E402
from mloc.executors.training.ppo.ppo_checkpoint import Progressed  # noqa: E402


def learner() -> tuple[Any, Any, Any]:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    return model, optimizer, torch.optim.lr_scheduler.LinearLR(optimizer)


def state_of(seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    return ppo_checkpoint.random_state()


def first_number_after(seed: int) -> float:
    torch.manual_seed(seed)
    return float(torch.rand(1))


@pytest.mark.models
@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_draws_what_it_would_have_drawn(tmp_path: Path, rank: int) -> None:
    saved = learner()
    place, _ = ppo_checkpoint.save(tmp_path, *saved, Progressed(step=3, tokens=7), [state_of(11), state_of(12)])
    restored = learner()
    assert ppo_checkpoint.restore(place, *restored, ranks=2, rank=rank) == Progressed(step=3, tokens=7)
    assert float(torch.rand(1)) == first_number_after((11, 12)[rank])
    assert restored[0].weight.equal(saved[0].weight)


@pytest.mark.models
def test_another_number_of_ranks_goes_on_from_the_same_weights_with_numbers_of_its_own(tmp_path: Path) -> None:
    saved = learner()
    place, _ = ppo_checkpoint.save(tmp_path, *saved, Progressed(step=3), [state_of(11), state_of(12)])
    restored = learner()
    torch.manual_seed(99)
    assert ppo_checkpoint.restore(place, *restored).step == 3
    assert float(torch.rand(1)) == first_number_after(99)
    assert restored[0].weight.equal(saved[0].weight)
