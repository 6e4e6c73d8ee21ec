"""Training on workers that share no disk: one is killed in the middle, the other goes on from its checkpoint; each uses what the other made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest

from tests.integration.far_workers import FarWorkers
from tests.integration.whole_cell import WholeCell

STEPS = 360
DEADLINE_SEC = 150

pytestmark = [pytest.mark.deep, pytest.mark.models]

PIPELINE = f"""
apiVersion: mloc/v1
kind: Pipeline
metadata: {{name: far}}
spec:
  retry: {{backoff_sec: 0}}
  stages:
    - name: pretrain
      spec:
        taskType: sft
        resources: {{tags: [far]}}
        model:
          source: {{type: scratch, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, vocab_size: 300}}
        data: {{items: [{{prompt: what is up, response: the sky}}, {{prompt: what is down, response: the ground}}]}}
        training: {{max_steps: {STEPS}, per_device_train_batch_size: 2, save_steps: 30, logging_steps: 30}}
        output: {{artifacts: [final_model, final_model_archive]}}
    - name: tune
      spec:
        taskType: lora_sft
        resources: {{tags: [two]}}
        model: {{source: {{type: stage, identifier: pretrain}}, adapter: {{r: 2}}}}
        data: {{items: [{{prompt: what is up, response: sky}}]}}
        training: {{max_steps: 2, per_device_train_batch_size: 1}}
    - name: answer
      spec:
        taskType: inference
        resources: {{tags: [one]}}
        model: {{source: {{type: stage, identifier: pretrain}}, adapters: [{{path: "${{tune.result.final_lora_path}}"}}]}}
        data: {{prompts: [what is up]}}
        inference: {{max_tokens: 4}}
      dependsOn: [pretrain, tune]
"""


@pytest.fixture
def workers() -> Iterator[FarWorkers]:
    cell = WholeCell(workers=0, HEARTBEAT_INTERVAL_SEC="0.3", HEARTBEAT_TTL_SEC="5")
    first = FarWorkers(cell, "one", HEARTBEAT_TTL_SEC="5")
    try:
        yield first
    finally:
        first.close()
        cell.close()


@pytest.mark.timeout(400)
def test_a_killed_training_goes_on_elsewhere_and_each_worker_uses_what_the_other_made(workers: FarWorkers) -> None:
    # given a training with a checkpoint at the API, and a worker that had no part in it
    (id, *_) = workers.submit(PIPELINE, "far")
    pretrain = f"{id}.pretrain"
    workers.cell.until(lambda: workers.events(pretrain, "AttemptStarted"), DEADLINE_SEC)
    workers.start("two", HEARTBEAT_TTL_SEC="5")
    workers.cell.until(lambda: workers.events(pretrain, "CheckpointSaved"), DEADLINE_SEC)
    # when the one that trains is killed
    workers.kill("one")
    # then the other one goes on from there
    assert workers.until_ended(pretrain, DEADLINE_SEC)["state"] == "published"
    manifest = json.loads((workers.cell.results / pretrain / "manifest.json").read_text())
    assert manifest["worker"] == "two"
    lines = [line.get("line", "") for line in workers.cell.http("GET", f"/api/v1/tasks/{pretrain}/logs?limit=5000")[1]["lines"]]
    begun = [int(line.split()[3]) for line in lines if line.startswith("training from step")]
    assert 0 == begun[0] < begun[1] <= STEPS
    # and what it made is whole in the published tree, with its archive, and without what was uploaded on the way
    by_name = {file["path"]: file for file in manifest["files"]}
    assert {artifact["state"] for artifact in manifest["artifacts"]} == {"present"}
    assert not any("checkpoint" in name for name in by_name)
    for name, file in by_name.items():
        assert hashlib.sha256((workers.cell.results / pretrain / name).read_bytes()).hexdigest() == file["sha256"]
    # and the later stages, on one worker each, find what they need
    workers.start("one", HEARTBEAT_TTL_SEC="5")
    assert workers.until_ended(id, DEADLINE_SEC)["state"] == "published"
    assert workers.cell.http("GET", f"/api/v1/results/{id}.answer")[1]["items"][0]["output"] is not None
    assert [workers.task(f"{id}.{stage}")["worker_id"] for stage in ("tune", "answer")] == ["two", "one"]
