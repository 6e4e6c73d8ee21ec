"""A model answers rows on two shards, what it answered becomes a training set, and the next stage learns from it: all with real processes."""

from __future__ import annotations

import json

import pytest

from tests.integration.whole_cell import WholeCell

DEADLINE_SEC = 150
PIPELINE = """
apiVersion: mloc/v1
kind: Pipeline
metadata: {name: loop}
spec:
  training: {max_steps: 2, per_device_train_batch_size: 2}
  stages:
    - name: base
      spec:
        taskType: sft
        model: {source: {type: scratch, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, vocab_size: 300}}
        data: {prompts: [one fox, two dogs]}
    - name: gen
      spec:
        taskType: inference
        model: {source: {type: stage, identifier: base}}
        parallel: {enabled: true, shards: 2}
        inference: {choice: [a fox, a dog]}
        data:
          items:
            - {prompt: one, metadata: {topic: x}}
            - {prompt: two}
            - {prompt: three, metadata: {topic: z}}
            - {nothing: to ask}
        postprocess:
          jsonl_export:
            path: train.jsonl
            fields: {prompt: {from: prompt}, response: {from: output}, topic: {from: metadata, key: topic}, made_by: {from: literal, value: gen}}
            required_fields: [topic]
    - name: train
      spec:
        taskType: sft
        model: {source: {type: stage, identifier: base}}
        data: {jsonl: {path: "${gen.result.jsonl_export.path}"}}
"""


@pytest.mark.deep
@pytest.mark.models
def test_what_a_sharded_stage_generates_is_what_the_next_one_trains_on() -> None:
    cell = WholeCell(HF_HUB_OFFLINE="1")
    try:
        pipeline = cell.submit(PIPELINE, "loop", DEADLINE_SEC)[0]
        cell.until(lambda: cell.http("GET", f"/api/v1/tasks/{pipeline}")[1]["state"] in ("published", "dead_lettered"), DEADLINE_SEC)
        assert cell.http("GET", f"/api/v1/tasks/{pipeline}")[1]["state"] == "published", cell.output()[-3000:]
        result = cell.http("GET", f"/api/v1/results/{pipeline}.gen")[1]
        assert [item.get("output") in ("a fox", "a dog") for item in result["items"]] == [True, True, True, False]
        assert (result["jsonl_export"]["rows"], result["jsonl_export"]["skipped"]) == (2, 2)
        with open(result["jsonl_export"]["path"]) as file:
            rows = [json.loads(line) for line in file]
        assert [(row["prompt"], row["topic"], row["made_by"]) for row in rows] == [("one", "x", "gen"), ("three", "z", "gen")]
        assert cell.http("GET", f"/api/v1/results/{pipeline}.train")[1]["training"]["steps"] == 2
    finally:
        cell.close()
