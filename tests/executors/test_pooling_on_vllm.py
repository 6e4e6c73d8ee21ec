"""Vectors, scores and ranks by vLLM on the CPU, through a real host: the same as by transformers. Two engines, because each takes long to start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from driven_host import DrivenHost, processes_of, task
from pipeline_run import published_result

from mloc.core.host_frames import Failed, RunTask
from mloc.core.language.model_spec import ScratchSource
from mloc.executors.inference.engine_choice import vllm_missing

MISSING = vllm_missing(on_device=False)
pytestmark = [
    pytest.mark.models, pytest.mark.deep, pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=MISSING or "vLLM is there"),
]  # fmt: skip

ENGINE = {"max_model_len": 128, "enforce_eager": True, "kv_cache_memory_bytes": 64 << 20}
SIZES = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300, "max_position_embeddings": 128}
TEXTS = ["the quick brown fox jumps over the lazy dog"]
names = iter(range(10_000))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: `writer`, a language model, and `judge`, a cross-encoder, of random weights."""
    import torch

    from mloc.executors.models.scratch_model import make_scratch_model

    folder = tmp_path_factory.mktemp("models")
    for name, architecture, head in (("writer", "llama", "causal"), ("judge", "bert", "score")):
        model, tokenizer = make_scratch_model(ScratchSource(architecture=architecture, **SIZES), TEXTS, head)
        if head == "score":
            with torch.no_grad():
                model.classifier.weight *= 50  # so that the marks differ
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    _write_reward_adapter(folder / "writer", folder / "reward")
    return folder


def _write_reward_adapter(base: Path, folder: Path) -> None:
    """As a training of type `reward` leaves one: LoRA on a language model, with a head of its own."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    adapted = get_peft_model(model, LoraConfig(r=4, task_type="SEQ_CLS", target_modules="all-linear", init_lora_weights=False))
    with torch.no_grad():
        adapted.base_model.model.score.modules_to_save.default.weight *= 50
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


@pytest.fixture
def both(vllm_host: DrivenHost, models: Path, tmp_path: Path) -> Any:
    """The results of a task by vLLM and by transformers."""

    def ask(task_type: str, model: str, items: list[Any], **given: Any) -> list[dict[str, Any]]:
        source = {"source": {"type": "local", "identifier": str(models / model)}}
        data = {"type": "list", "items": items}
        asked = [task(f"p{next(names)}", task_type, tmp_path, model={**source, **of}, data=data, **given) for of in ({"vllm": ENGINE}, {})]
        results = [run(vllm_host, one) for one in asked]
        assert [result["engine"]["name"] for result in results] == ["vllm", "transformers"]
        assert results[0]["engine"]["why"] == "the task has settings in model.vllm"
        return results

    return ask


def run(host: DrivenHost, asked: RunTask) -> dict[str, Any]:
    host.send(asked)
    return published_result(host, asked.task, Path(asked.final_folder).parent, asked.attempt)


def test_vectors_are_those_of_transformers_whatever_is_made_of_their_length(vllm_host: DrivenHost, both: Any) -> None:
    rows = ["the quick fox", {"text": "a dog", "metadata": {"topic": "dogs"}}, {"x": 1}, "lazy " * 300, {"text": ""}]
    engines = []
    for settings in ({}, {"normalize": False}, {"document_prompt": "say: "}):
        by_vllm, by_transformers = both("embed", "writer", rows, retrieval={"embedding": settings})
        assert by_vllm["dimension"] == by_transformers["dimension"] == 64
        for one, other in zip(by_vllm["items"], by_transformers["items"], strict=True):
            assert numpy.allclose(one.get("embedding", 0), other.get("embedding", 0), atol=1e-4)
            assert (one.get("usage"), one["metadata"]) == (other.get("usage"), other["metadata"])
        assert [by_vllm["items"][row]["error"]["type"] for row in (2, 4)] == ["NoText", "NoText"]
        engines += processes_of(vllm_host, "EngineCore")
    assert len(engines) == 3
    assert len(set(engines)) == 1  # warm for all of them


def test_passages_are_sorted_by_the_same_marks(both: Any) -> None:
    documents = ["lazy dogs", "the quick brown fox", {"text": "a fox", "source": "atlas"}, "dog " * 300]
    rows = [{"query": "quick fox", "documents": documents}, {"query": "no documents"}]
    by_vllm, by_transformers = both("rerank", "judge", rows)
    found, expected = by_vllm["items"][0]["results"], by_transformers["items"][0]["results"]
    assert [one["index"] for one in found] == [one["index"] for one in expected]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-4)
    assert max(one["score"] for one in found) - min(one["score"] for one in found) > 1e-3
    assert by_vllm["items"][0]["usage"] == by_transformers["items"][0]["usage"]
    assert by_vllm["items"][1]["error"]["type"] == "NoDocuments"


def test_a_classifiers_number_is_the_same_and_its_engine_is_the_one_that_sorts(vllm_host: DrivenHost, both: Any, models: Path) -> None:
    rows = [{"prompt": "one", "response": "fox"}, {"prompt": "one", "response": "dog"}, {"text": "the lazy dog"}, {"x": 1}]
    before = processes_of(vllm_host, "EngineCore")
    by_vllm, by_transformers = both("score", "judge", rows)
    scores = [[item["score"] for item in result["items"][:3]] for result in (by_vllm, by_transformers)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert len({round(score, 3) for score in scores[0]}) == 3
    assert by_vllm["items"][3]["error"]["type"] == "NoText"
    assert not before or processes_of(vllm_host, "EngineCore") == before


def test_a_reward_model_that_is_an_adapter_gives_the_same_numbers_and_sorts_the_same(vllm_host: DrivenHost, both: Any) -> None:
    rows = [{"prompt": "one", "response": "fox"}, {"prompt": "one", "response": "dog"}, {"text": "the lazy dog"}]
    scores = [[item["score"] for item in result["items"]] for result in both("score", "reward", rows)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert len({round(score, 3) for score in scores[0]}) == 3
    engine = processes_of(vllm_host, "EngineCore")
    by_vllm, by_transformers = both("rerank", "reward", [{"query": "quick fox", "documents": ["lazy dogs", "the quick brown fox"]}])
    assert [one["score"] for one in by_vllm["items"][0]["results"]] == pytest.approx(
        [one["score"] for one in by_transformers["items"][0]["results"]], abs=1e-3
    )
    assert processes_of(vllm_host, "EngineCore") == engine


def test_vllm_that_cannot_do_it_says_so(vllm_host: DrivenHost, models: Path, tmp_path: Path) -> None:
    source = {"type": "local", "identifier": str(models / "writer")}
    wrong = task(f"p{next(names)}", "embed", tmp_path, model={"source": source, "vllm": {"max_modl_len": 9}}, data={"type": "list", "items": ["a"]})
    vllm_host.send(wrong)
    error = vllm_host.wait_of(Failed, wrong.task).error
    assert "did you mean max_model_len" in error.message
    assert not error.retryable
