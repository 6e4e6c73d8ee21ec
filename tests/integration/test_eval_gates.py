"""A pipeline whose model is judged on the way, on a real cell: what waits behind the gate starts only where the model is good enough."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.integration.whole_cell import WholeCell, without_module

pytestmark = [pytest.mark.deep, pytest.mark.models, pytest.mark.timeout(400)]

DEADLINE_SEC = 150
ENDED = ("published", "dead_lettered")
QUESTIONS = [{"prompt": f"Say {word}.", "response": word} for word in ("one", "two", "three", "four")]
SCRATCH = {"type": "scratch", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeCell]:
    """Its worker has no lm_eval."""
    hiding = without_module(tmp_path_factory.mktemp("cell"), "lm_eval")
    running = WholeCell(HF_HUB_OFFLINE="1", PYTHONPATH=os.pathsep.join((str(hiding), os.environ["PYTHONPATH"])))
    yield running
    running.close()


def submit(cell: WholeCell, name: str, gate: dict[str, Any]) -> str:
    """Train for three steps → judge → answer. Gives the pipeline's id."""
    greedy = {"max_tokens": 4, "temperature": 0}
    of_train = {"source": {"type": "stage", "identifier": "train"}}
    learn = {"max_steps": 3, "per_device_train_batch_size": 4, "save_strategy": "no", "seed": 1}
    stages: dict[str, dict[str, Any]] = {
        "train": {"taskType": "sft", "model": {"source": SCRATCH}, "data": {"items": QUESTIONS}, "training": learn},
        "judge": {"taskType": "eval", "model": of_train, "data": {"items": QUESTIONS}, "eval": {"gate": gate}, "inference": greedy},
        "answer": {"taskType": "inference", "model": of_train, "data": {"prompts": ["Say one."]}, "inference": greedy},
    }
    after = {"judge": ["train"], "answer": ["judge", "train"]}
    spec = {
        "retry": {"max_attempts": 3, "backoff_sec": 0},
        "stages": [{"name": stage, "spec": given, "dependsOn": after.get(stage, [])} for stage, given in stages.items()],
    }  # fmt: skip
    document = {"apiVersion": "mloc/v1", "kind": "Pipeline", "metadata": {"name": name}, "spec": spec}
    return cell.submit(yaml.safe_dump(document), name, DEADLINE_SEC)[0]


def ended(cell: WholeCell, task: str) -> dict[str, Any]:
    def shown() -> dict[str, Any] | None:
        _, told = cell.http("GET", f"/api/v1/tasks/{task}")
        return told if told["state"] in ENDED else None

    found: dict[str, Any] = cell.until(shown, DEADLINE_SEC)
    return found


def started(cell: WholeCell, task: str) -> list[int]:
    """Its attempts that began."""
    _, told = cell.http("GET", f"/api/v1/tasks/{task}/events?limit=500")
    return [event["attempt"] for event in told["events"] if event["type"] == "AttemptStarted"]


def test_a_model_that_is_not_good_enough_is_judged_once_and_nothing_behind_the_gate_runs(cell: WholeCell) -> None:
    id = submit(cell, "held", {"metric": "accuracy", "min": 0.9})
    assert ended(cell, id)["state"] == "dead_lettered"
    assert ended(cell, f"{id}.train")["state"] == "published"
    judge = ended(cell, f"{id}.judge")
    assert (judge["state"], judge["error"]["type"]) == ("dead_lettered", "GateNotPassed")
    assert "the gate asks for at least 0.9" in judge["error"]["message"]
    assert started(cell, f"{id}.judge") == [1]
    assert started(cell, f"{id}.answer") == []
    assert cell.http("GET", f"/api/v1/tasks/{id}.answer")[1]["state"] not in ("published", "running", "dispatched")


def test_a_model_that_is_good_enough_goes_through_the_gate(cell: WholeCell) -> None:
    id = submit(cell, "let-through", {"metric": "accuracy", "min": 0.0})
    assert ended(cell, id)["state"] == "published"
    assert cell.http("GET", f"/api/v1/results/{id}.judge")[1]["gate"]["passed"] is True
    assert len(cell.http("GET", f"/api/v1/results/{id}.answer")[1]["items"]) == 1
    assert started(cell, f"{id}.answer") == [1]


def test_a_harness_that_no_worker_has_is_refused_at_placement_and_waits(cell: WholeCell) -> None:
    spec = {"taskType": "eval", "model": {"source": SCRATCH}, "eval": {"harness": "lm-eval", "tasks": ["arc_easy"]}}
    document = yaml.safe_dump({"apiVersion": "mloc/v1", "kind": "EvalTask", "metadata": {"name": "harness"}, "spec": spec})
    words = 'the harness lm-eval needs lm_eval: pip install "mloc[eval]"'
    status, told = cell.http("POST", "/api/v1/tasks?dry_run=1", document, Content_Type="text/yaml")
    assert status == 200
    assert words in told["tasks"][0]["placement"]["summary"]
    assert "no living worker takes tasks of type eval with lm-eval; they wait until one does" in told["warnings"]
    (id,) = cell.submit(document, "harness", DEADLINE_SEC)
    status, told = cell.http("GET", f"/api/v1/tasks/{id}/explain")
    assert (told["reason"], words in told["summary"]) == ("no_worker", True)
    assert started(cell, id) == []
