"""Workers that share no disk with anybody: results, rows and inputs go through the API, also when one of them is killed in the middle."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.far_workers import DEADLINE_SEC, FarWorkers
from tests.integration.whole_cell import WholeCell

ROWS = 1000
KILLED_AT = 200
LONG_ROWS, LONG_ROW_BYTES = 300, 60_000


@pytest.fixture(scope="module")
def cell() -> Iterator[WholeCell]:
    made = WholeCell(workers=1, HEARTBEAT_INTERVAL_SEC="0.3", HEARTBEAT_TTL_SEC="2")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def workers(cell: WholeCell) -> Iterator[FarWorkers]:
    both = FarWorkers(cell, "one", "two")
    try:
        yield both
    finally:
        both.close()


def test_a_large_result_reaches_the_aggregator_and_the_next_stage_on_another_worker(workers: FarWorkers) -> None:
    # given a stage on one worker whose result is larger than an event, and one on the other that refers to it
    words = json.dumps(["word " * 40 + str(number) for number in range(1000)])
    yaml = f"""
apiVersion: mloc/v1
kind: EchoTask
metadata: {{name: two-machines}}
spec:
  taskType: echo
  retry: {{max_attempts: 1}}
  stages:
    - name: large
      spec: {{resources: {{tags: [one]}}, data: {{type: list, items: {words}}}, echo: {{row_sleep_sec: 0.0001}}}}
    - name: last
      spec:
        resources: {{tags: [two]}}
        data: {{prompts: ["the last is ${{large.result.items[999].output}}"]}}
"""
    (id, *_) = workers.submit(yaml, "large")
    # when it has run
    assert workers.until_ended(id)["state"] == "published"
    # then the second stage saw the first one's result
    _, answer = workers.cell.http("GET", f"/api/v1/results/{id}.last")
    assert answer["items"][0]["output"].endswith("word 999")
    # and the published tree is as the worker made it, though it lay on no shared disk
    folder = workers.cell.results / f"{id}.large"
    manifest = json.loads((folder / "manifest.json").read_text())
    (listed,) = [file for file in manifest["files"] if file["path"] == "responses.json"]
    assert manifest["worker"] == "one"
    assert hashlib.sha256((folder / "responses.json").read_bytes()).hexdigest() == listed["sha256"]
    # and the worker keeps no copy
    workers.cell.until(lambda: not (workers.results("one") / ".attempts" / f"{id}.large").exists(), DEADLINE_SEC)


def test_a_training_set_that_a_far_worker_made_is_named_by_its_path_at_the_api(workers: FarWorkers) -> None:
    yaml = """
apiVersion: mloc/v1
kind: EchoTask
metadata: {name: set}
spec:
  taskType: echo
  retry: {max_attempts: 1}
  stages:
    - name: made
      spec: {resources: {tags: [one]}, data: {prompts: [a, b]}, postprocess: {jsonl_export: {path: set.jsonl}}}
    - name: used
      spec: {resources: {tags: [two]}, data: {jsonl: {path: "${made.result.jsonl_export.path}"}}}
"""
    (id, *_) = workers.submit(yaml, "set")
    assert workers.until_ended(id)["state"] == "published"
    export = workers.cell.http("GET", f"/api/v1/results/{id}.made")[1]["jsonl_export"]
    assert export["path"] == str(workers.cell.results.resolve() / f"{id}.made" / "artifacts" / "set.jsonl")
    workers.cell.until(Path(export["path"]).exists, DEADLINE_SEC)
    assert len(Path(export["path"]).read_text().splitlines()) == 2
    assert len(workers.cell.http("GET", f"/api/v1/results/{id}.used")[1]["items"]) == 2


def test_a_killed_workers_rows_are_not_done_again_by_one_that_never_saw_its_disk(workers: FarWorkers, tmp_path: Path) -> None:
    # given rows behind the test's file, of which one worker has recorded and uploaded some
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"row {number}"}) + "\n" for number in range(ROWS)))
    yaml = f"""
apiVersion: mloc/v1
kind: EchoTask
metadata: {{name: rows}}
spec:
  taskType: echo
  resources: {{tags: [far]}}
  retry: {{backoff_sec: 0}}
  echo: {{row_sleep_sec: 0.006}}
  data: {{jsonl: {{path: {source}}}}}
"""
    (id,) = workers.submit(yaml, "rows")
    workers.cell.until(lambda: sum(event["rows"] for event in _rows_done(workers, id)) >= KILLED_AT, DEADLINE_SEC)
    killed = workers.task(id)["worker_id"]
    # when it is killed
    workers.kill(killed)
    assert workers.until_ended(id)["state"] == "published"
    # then the other one did the rest, and the result has every row once, in the order of the input
    manifest = json.loads((workers.cell.results / id / "manifest.json").read_text())
    assert {manifest["worker"], killed} == {"one", "two"}
    items = json.loads((workers.cell.results / id / "responses.json").read_text())["items"]
    assert [(item["index"], item["output"]) for item in items] == [(number, f"row {number}") for number in range(ROWS)]
    joined = workers.results(manifest["worker"]) / ".attempts" / id
    assert not joined.exists()
    _, logs = workers.cell.http("GET", f"/api/v1/tasks/{id}/logs?limit=5000")
    said, *_ = [line["line"] for line in logs["lines"] if "are recorded by an earlier attempt" in line.get("line", "")]
    assert int(said.split()[0]) >= KILLED_AT
    # and what was uploaded on the way is gone with the publication
    assert not list((workers.cell.results / ".attempts" / id).glob("*/rows"))
    workers.start(killed)


@pytest.mark.deep
def test_rows_of_a_killed_worker_in_the_shared_folder_are_not_done_again_by_one_that_does_not_share_it(workers: FarWorkers, tmp_path: Path) -> None:
    # given rows of which a worker in the aggregator's folder has recorded some
    workers.start("near", RESULTS_DIR=str(workers.cell.results), WORKER_TAGS="mixed", ORCHESTRATOR_BASE_URL="")
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"row {number}"}) + "\n" for number in range(ROWS)))
    yaml = f"""
apiVersion: mloc/v1
kind: EchoTask
metadata: {{name: mixed}}
spec:
  taskType: echo
  resources: {{tags: [mixed]}}
  retry: {{backoff_sec: 0}}
  echo: {{row_sleep_sec: 0.006}}
  data: {{jsonl: {{path: {source}}}}}
"""
    (id,) = workers.submit(yaml, "mixed")
    workers.cell.until(lambda: sum(event["rows"] for event in _rows_done(workers, id)) >= KILLED_AT, DEADLINE_SEC)
    assert workers.task(id)["worker_id"] == "near"
    # when it is killed, and only one elsewhere can go on
    workers.kill("near")
    workers.start("away", WORKER_TAGS="mixed")
    assert workers.until_ended(id)["state"] == "published"
    # then that one did the rest
    items = json.loads((workers.cell.results / id / "responses.json").read_text())["items"]
    assert [(item["index"], item["output"]) for item in items] == [(number, f"row {number}") for number in range(ROWS)]
    _, logs = workers.cell.http("GET", f"/api/v1/tasks/{id}/logs?limit=5000")
    said, *_ = [line["line"] for line in logs["lines"] if "are recorded by an earlier attempt" in line.get("line", "")]
    assert int(said.split()[0]) >= KILLED_AT


@pytest.mark.deep
def test_an_api_that_is_killed_again_and_again_while_it_takes_a_result_costs_nothing(workers: FarWorkers, tmp_path: Path) -> None:
    # given a result of 18 MB that a worker delivers, its rows first
    source = tmp_path / "long.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"{number} " + "x" * LONG_ROW_BYTES}) + "\n" for number in range(LONG_ROWS)))
    yaml = f"""
apiVersion: mloc/v1
kind: EchoTask
metadata: {{name: long}}
spec:
  taskType: echo
  resources: {{tags: [far]}}
  echo: {{row_sleep_sec: 0.01}}
  data: {{jsonl: {{path: {source}}}}}
"""
    (id,) = workers.submit(yaml, "long")
    # when the API is killed as often as something new of it has arrived, four times
    known = _arrived(workers, id)
    for _ in range(4):
        workers.cell.until(lambda known=known: _arrived(workers, id) != known or workers.events(id, "AttemptSucceeded"), DEADLINE_SEC)
        known = _arrived(workers, id)
        workers.cell.kill("intake-api", DEADLINE_SEC)
    # then the first attempt ends well, and its result is whole
    ended = workers.until_ended(id)
    assert (ended["state"], len(workers.events(id, "AttemptFailed")), len(workers.events(id, "AttemptSucceeded"))) == ("published", 0, 1)
    folder = workers.cell.results / id
    items = json.loads((folder / "responses.json").read_text())["items"]
    assert [(item["index"], len(item["output"])) for item in items] == [(n, len(f"{n} ") + LONG_ROW_BYTES) for n in range(LONG_ROWS)]
    (listed,) = [file for file in json.loads((folder / "manifest.json").read_text())["files"] if file["path"] == "responses.json"]
    assert hashlib.sha256((folder / "responses.json").read_bytes()).hexdigest() == listed["sha256"]


def test_without_a_shared_folder_and_an_address_small_results_work_and_large_ones_say_what_to_do(cell: WholeCell) -> None:
    alone = FarWorkers(cell, "alone", ORCHESTRATOR_BASE_URL="")
    try:
        cell.until(lambda: "ORCHESTRATOR_BASE_URL" in alone.output("alone"), DEADLINE_SEC)
        head = "apiVersion: mloc/v1\nkind: EchoTask\nspec:\n  taskType: echo\n  resources: {tags: [alone]}\n  echo: {row_sleep_sec: 0.0001}\n"
        (small,) = alone.submit(head + "  data: {prompts: [hello]}\n", "small")
        (large,) = alone.submit(head + f"  data: {{type: list, items: {json.dumps(['x' * 1000] * 100)}}}\n", "large-alone")
        assert alone.until_ended(small)["state"] == "published"
        ended = alone.until_ended(large)
        assert ended["state"] == "dead_lettered"
        assert "RESULTS_DIR" in ended["error"]["message"]
        assert "ORCHESTRATOR_BASE_URL" in ended["error"]["message"]
        assert len(alone.events(large, "AttemptFailed")) == 1
    finally:
        alone.close()


def _arrived(workers: FarWorkers, id: str) -> int:
    """Bytes of an attempt's files that the API has, whole or in part."""
    places = (workers.cell.results / ".uploads", workers.cell.results / ".attempts" / id)
    size = 0
    for file in (file for place in places for file in place.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


def _rows_done(workers: FarWorkers, id: str) -> list[dict[str, int]]:
    return workers.events(id, "RowsCompleted")
