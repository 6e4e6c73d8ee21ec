from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from driven_host import DrivenHost

from mloc.core.language.model_spec import ScratchSource


@pytest.fixture
def host() -> Iterator[Callable[..., DrivenHost]]:
    """Starts hosts; ends them after the test."""
    started: list[DrivenHost] = []

    def start(**options: bool) -> DrivenHost:
        started.append(DrivenHost(**options))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="module")
def warm_host() -> Iterator[DrivenHost]:
    """One host for a module's tests, so that the libraries are imported once."""
    driven = DrivenHost()
    yield driven
    driven.close()


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model whose weights are random but always the same: it answers nonsense, at length."""
    from mloc.executors.models.scratch_model import make_scratch_model

    folder = tmp_path_factory.mktemp("random_model")
    source = ScratchSource(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=300, max_position_embeddings=256)
    model, tokenizer = make_scratch_model(source, ["the quick brown fox jumps over the lazy dog"])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
