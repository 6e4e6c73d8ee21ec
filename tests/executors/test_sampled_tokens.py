"""The tokens that a trainer sampled are counted across a checkpoint."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.models


def test_a_training_that_goes_on_counts_on(tmp_path: Path) -> None:
    from transformers import TrainerState

    from mloc.executors.training.sampled_tokens import count_sampled, sampled_tokens

    state = TrainerState()
    assert sampled_tokens(state) == 0
    count_sampled(state, [[1, 2], [3]])
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    again = TrainerState.load_from_json(str(tmp_path / "trainer_state.json"))
    count_sampled(again, [[4]])
    assert sampled_tokens(again) == 4
