"""The whole way of a task with real processes: submitted over HTTP, run, published, on disk, counted, and all stopped cleanly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.whole_cell import WholeCell, echo_task

DEADLINE_SEC = 60


@pytest.fixture(scope="module")
def cell() -> Iterator[WholeCell]:
    one = WholeCell()
    try:
        yield one
    finally:
        one.close()


def wait_for(cell: WholeCell, ids: list[str], state: str = "published") -> None:
    for id in ids:
        cell.until(lambda id=id: cell.http("GET", f"/api/v1/tasks/{id}")[1]["state"] == state, DEADLINE_SEC)  # type: ignore[misc]


def test_fifty_tasks_are_published_and_their_trees_are_there(cell: WholeCell) -> None:
    ids = cell.submit("---\n".join(echo_task(f"task{number}") for number in range(50)), "fifty", DEADLINE_SEC)
    assert len(ids) == 50
    wait_for(cell, ids)
    for number, id in enumerate(ids):
        cell.until((cell.results / id / "manifest.json").exists, DEADLINE_SEC)
        on_disk = json.loads((cell.results / id / "responses.json").read_text())
        assert on_disk["items"][0]["output"] == f"task{number}"
        assert cell.http("GET", f"/api/v1/results/{id}")[1] == on_disk


def test_a_stage_whose_result_is_large_only_because_of_what_it_refers_to_is_published(cell: WholeCell) -> None:
    text = "w" * 40_000
    yaml = f"""
apiVersion: mloc/v1
kind: EchoTask
metadata: {{name: large}}
spec:
  taskType: echo
  stages:
    - {{name: first, spec: {{data: {{prompts: [{text}]}}}}}}
    - {{name: second, spec: {{data: {{prompts: ["${{first.result.items[0].output}}"]}}}}}}
"""
    pipeline = cell.submit(yaml, "large", DEADLINE_SEC)[0]
    wait_for(cell, [pipeline])
    task = cell.http("GET", f"/api/v1/tasks/{pipeline}.second")[1]
    assert (task["state"], task["attempt"]) == ("published", 1)
    cell.until((cell.results / f"{pipeline}.second" / "manifest.json").exists, DEADLINE_SEC)
    assert json.loads((cell.results / f"{pipeline}.second" / "responses.json").read_text())["items"][0]["output"] == text


def test_a_pipeline_with_shards_and_references_runs_to_its_end(cell: WholeCell) -> None:
    # given a chain whose second stage is sharded and whose third reads the second's result
    prompts = ", ".join(f"p{number}" for number in range(10))
    yaml = f"""
apiVersion: mloc/v1
kind: EchoTask
metadata: {{name: chain}}
spec:
  taskType: echo
  stages:
    - {{name: first, spec: {{data: {{prompts: [hello]}}}}}}
    - {{name: many, spec: {{data: {{prompts: [{prompts}]}}, parallel: {{enabled: true, shards: 3}}}}}}
    - {{name: last, spec: {{data: {{prompts: ["${{many.result.items[9].output}}", "${{first.result.items[0].output}}"]}}}}}}
"""
    # when it is submitted
    ids = cell.submit(yaml, "chain", DEADLINE_SEC)
    wait_for(cell, ids[:1])
    pipeline = ids[0]
    # then every stage's tree is there, the shards' items in the order of the input
    for name in (pipeline, f"{pipeline}.many", f"{pipeline}.last"):
        cell.until((cell.results / name / "manifest.json").exists, DEADLINE_SEC)
    many = json.loads((cell.results / f"{pipeline}.many" / "responses.json").read_text())
    assert [item["output"] for item in many["items"]] == [f"p{number}" for number in range(10)]
    assert many["usage"]["num_requests"] == 10
    last = json.loads((cell.results / f"{pipeline}.last" / "responses.json").read_text())
    assert [item["output"] for item in last["items"]] == ["p9", "hello"]
    assert not list(cell.results.glob("*.s[0-9]"))


def test_a_result_whose_destination_is_not_allowed_is_in_the_default_folder(cell: WholeCell, tmp_path: Path) -> None:
    ids = cell.submit(echo_task("away", f"  output: {{destination: {{path: {tmp_path}/mine}}}}\n"), "away", DEADLINE_SEC)
    wait_for(cell, ids)
    cell.until((cell.results / ids[0] / "manifest.json").exists, DEADLINE_SEC)
    assert json.loads((cell.results / ids[0] / "responses.json").read_text())["items"][0]["output"] == "away"
    assert not (tmp_path / "mine").exists()


def test_a_failure_is_on_disk_too(cell: WholeCell) -> None:
    ids = cell.submit(echo_task("bad", "  echo: {fail: no such thing, retryable: false}\n"), "bad", DEADLINE_SEC)
    wait_for(cell, ids, "dead_lettered")
    cell.until((cell.results / ids[0] / "manifest.json").exists, DEADLINE_SEC)
    said = json.loads((cell.results / ids[0] / "responses.json").read_text())
    assert (said["ok"], said["error"]["retryable"]) == (False, False)
    assert "no such thing" in said["error"]["message"]


def test_the_metrics_know_all_of_it(cell: WholeCell) -> None:
    def counted() -> bool:
        found = cell.http("GET", "/metrics?format=json")
        tasks, lag = (found[1]["tasks"], found[1]["tree_lag_sec"]) if found[0] == 200 else ({}, None)
        return bool(tasks) and tasks["published"] >= 54 and tasks["dead_lettered"] == 1 and lag == 0

    cell.until(counted, DEADLINE_SEC)
    assert "ResultPublished" in (cell.state / "metrics" / "events.log").read_text()


def test_everything_stops_cleanly_and_leaves_its_state(cell: WholeCell) -> None:
    assert cell.stop() == 0
    for service in ("scheduler", "aggregator"):
        assert list((cell.state / "snapshots" / service).glob("*.snapshot"))
    assert (cell.state / "metrics" / "counts.msgpack").exists()
    assert "Traceback" not in cell.output()
