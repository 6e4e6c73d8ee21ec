"""TRL samples by vLLM only where it is of a version that it takes."""

from __future__ import annotations

from importlib import metadata

import pytest

from mloc.executors.contract import ExecutorError
from mloc.executors.training.sampling_by_vllm import check_sampling, versions_of_trl

REQUIRES = ["datasets>=3", 'vllm<=0.31.0,>=0.22.0; extra == "vllm"']


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda _: REQUIRES)


@pytest.mark.parametrize(("installed", "said"), [({"vllm": "0.32.0"}, "the worker has 0.32.0"), ({"vllm": "0.21.1+cu129"}, "0.21.1"), ({}, "none")])
def test_a_vllm_that_trl_does_not_take_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], said: str) -> None:
    install(monkeypatch, **installed)
    with pytest.raises(ExecutorError, match=said) as caught:
        check_sampling({"use_vllm": True})
    assert versions_of_trl(REQUIRES) in caught.value.message
    assert not caught.value.retryable


def test_one_that_it_takes_may_sample_and_a_server_elsewhere_is_its_own_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, vllm="0.31.0+cu129")
    check_sampling({"use_vllm": True})
    install(monkeypatch, vllm="0.32.0")
    check_sampling({})
    check_sampling({"use_vllm": True, "vllm_mode": "server"})
