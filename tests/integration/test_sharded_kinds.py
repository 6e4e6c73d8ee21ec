"""Rows of an evaluation, of questions to documents and of texts to embed, shared out to two workers: the whole is what one would have made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.whole_cell import WholeCell

pytestmark = [pytest.mark.deep, pytest.mark.models, pytest.mark.timeout(600)]

DEADLINE_SEC = 300  # seven hosts start on two cores that others use
SCRATCH = {"type": "scratch", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
QUESTIONS = [{"prompt": f"Say {word}.", "response": word} for word in ("one", "two", "three", "four", "five")]
DOCUMENTS = [f"The number {number} comes after {number - 1}." for number in range(2, 9)]
TEXTS = 2_800  # of 32 numbers: more vectors than stand in the items
BASE = {"source": {"type": "stage", "identifier": "base"}}
GREEDY = {"max_tokens": 8, "temperature": 0}
TWO = {"parallel": {"shards": 2}}


@pytest.fixture(scope="module")
def cell() -> Iterator[WholeCell]:
    running = WholeCell(workers=2, HF_HUB_OFFLINE="1")
    yield running
    running.close()


@pytest.fixture(scope="module")
def results(cell: WholeCell) -> dict[str, dict[str, Any]]:
    """Stage → result: each kind of work in two shards, and as one."""
    texts = cell.folder / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"{number} is a number"}) + "\n" for number in range(TEXTS)))
    judged = {"taskType": "eval", "model": BASE, "data": {"items": QUESTIONS}, "eval": {"pattern": "[a-h]", "limit": 0.7}, "inference": GREEDY}
    asked = {
        "taskType": "rag", "model": BASE, "data": {"prompts": [one["prompt"] for one in QUESTIONS]}, "inference": GREEDY,
        "retrieval": {"documents": DOCUMENTS, "embedding": {"source": BASE["source"]}, "search": {"top_k": 2}},
    }  # fmt: skip
    embedded = {"taskType": "embed", "model": BASE, "data": {"jsonl": {"path": str(texts)}}, "retrieval": {"embedding": {"batch_size": 64}}}
    learn = {"max_steps": 3, "per_device_train_batch_size": 4, "save_strategy": "no", "seed": 1}
    stages: dict[str, dict[str, Any]] = {"base": {"taskType": "sft", "model": {"source": SCRATCH}, "data": {"items": QUESTIONS}, "training": learn}}
    for name, spec in (("judged", judged), ("asked", asked), ("embedded", embedded)):
        stages |= {name: {**spec, **TWO}, f"{name}-as-one": spec}
    spec = {"stages": [{"name": name, "spec": given, "dependsOn": [] if name == "base" else ["base"]} for name, given in stages.items()]}
    document = {"apiVersion": "mloc/v1", "kind": "Pipeline", "metadata": {"name": "sharded"}, "spec": spec}
    id = cell.submit(yaml.safe_dump(document), "sharded", DEADLINE_SEC)[0]

    def ended() -> str | None:
        state: str = cell.http("GET", f"/api/v1/tasks/{id}")[1]["state"]
        return state if state in ("published", "dead_lettered") else None

    assert cell.until(ended, DEADLINE_SEC) == "published", cell.http("GET", f"/api/v1/tasks/{id}")
    for name, given in stages.items():
        assert (cell.http("GET", f"/api/v1/tasks/{id}.{name}.s1")[0] == 200) == ("parallel" in given)
    return {name: cell.http("GET", f"/api/v1/results/{id}.{name}")[1] for name in stages}


def items(result: dict[str, Any], *left_out: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in item.items() if name not in left_out} for item in result["items"]]


def test_an_evaluation_in_shards_has_the_metrics_of_all_rows(results: dict[str, dict[str, Any]]) -> None:
    parts, whole = results["judged"], results["judged-as-one"]
    assert whole["metrics"]["matched"]["n"] == 4
    assert parts["metrics"] == whole["metrics"]
    assert items(parts) == items(whole)
    assert "shards" not in parts


def test_questions_in_shards_find_the_same_passages_and_leave_one_index(results: dict[str, dict[str, Any]]) -> None:
    parts, whole = results["asked"], results["asked-as-one"]
    assert [[passage["text"] for passage in item["passages"]] for item in parts["items"]] == [
        [passage["text"] for passage in item["passages"]] for item in whole["items"]
    ]
    assert [item["output"] for item in parts["items"]] == [item["output"] for item in whole["items"]]
    assert parts["index"]["key"] == whole["index"]["key"]
    assert (Path(parts["index"]["path"]) / "index.json").is_file()


def test_texts_embedded_in_shards_are_one_file_of_vectors(results: dict[str, dict[str, Any]]) -> None:
    numpy = pytest.importorskip("numpy")
    parts, whole = results["embedded"], results["embedded-as-one"]
    assert (parts["embeddings"]["rows"], parts["embeddings"]["dimension"]) == (TEXTS, 32)
    assert numpy.allclose(numpy.load(parts["embeddings"]["path"]), numpy.load(whole["embeddings"]["path"]), atol=1e-5)
    assert [item["index"] for item in parts["items"]] == list(range(TEXTS))
    assert parts["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
