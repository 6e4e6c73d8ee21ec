"""A thousand rows on two workers that share a folder: one, or its host, is killed -9 in the middle, and the other does what is missing."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.far_workers import FarWorkers
from tests.integration.whole_cell import WholeCell

DEADLINE_SEC = 90
ROWS = 1000
KILLED_AT = 700

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def workers() -> Iterator[FarWorkers]:
    """Beside a cell, in its folder. Each test kills something on another worker."""
    cell = WholeCell(workers=1, HEARTBEAT_INTERVAL_SEC="0.3", HEARTBEAT_TTL_SEC="2")
    try:
        both = FarWorkers(cell, "one", "two", WORKER_TAGS="rows", RESULTS_DIR=str(cell.results), ORCHESTRATOR_BASE_URL="")
        try:
            yield both
        finally:
            both.close()
    finally:
        cell.close()


def kill_host(workers: FarWorkers, name: str) -> None:
    """The one that is not for light tasks."""
    for child in _children(workers.pid_of(name)):
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"mloc.executors.host" in command and b"--light" not in command:
            os.kill(child, signal.SIGKILL)


ECHO = "taskType: echo\n  echo: {row_sleep_sec: 0.004}"


@pytest.mark.deep
@pytest.mark.models
def test_rows_that_a_model_answered_stay_when_its_host_is_killed(workers: FarWorkers) -> None:
    from mloc.core.language.model_spec import ScratchSource
    from mloc.executors.models.scratch_model import make_scratch_model

    folder = workers.cell.folder / "model"
    model, tokenizer = make_scratch_model(ScratchSource(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=300), ["row 1"])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    inference = f"taskType: inference\n  model: {{source: {{type: local, identifier: {folder}}}}}\n  inference: {{max_tokens: 32, ignore_eos: true}}"
    _check_that_the_rest_is_done(workers, "host", inference)


def test_a_killed_hosts_rows_stay_and_the_other_worker_does_the_rest(workers: FarWorkers) -> None:
    _check_that_the_rest_is_done(workers, "host", ECHO)


def test_a_killed_workers_rows_stay_and_the_other_worker_does_the_rest(workers: FarWorkers) -> None:
    _check_that_the_rest_is_done(workers, "worker", ECHO)


def _check_that_the_rest_is_done(workers: FarWorkers, killed: str, work: str) -> None:
    cell = workers.cell
    # given a thousand rows in a file, of which one worker has recorded about 700
    source = cell.folder / "rows.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"row {number}"}) + "\n" for number in range(ROWS)))
    (id,) = cell.submit(_task(killed, source, work), f"{killed}-{work.split()[1]}", DEADLINE_SEC)
    parts = cell.results / ".attempts" / id / "rows"
    cell.until(lambda: _recorded(parts / "attempt-1.jsonl"), DEADLINE_SEC)
    first_worker = cell.http("GET", f"/api/v1/tasks/{id}")[1]["worker_id"]
    cell.until(lambda: len(_recorded(parts / "attempt-1.jsonl")) >= KILLED_AT, DEADLINE_SEC)
    # when that worker, or the process that does the rows, is killed
    if killed == "worker":
        workers.kill(first_worker)
    else:
        kill_host(workers, first_worker)
    cell.until(lambda: cell.http("GET", f"/api/v1/tasks/{id}")[1]["state"] == "published", DEADLINE_SEC)
    cell.until((cell.results / id / "manifest.json").exists, DEADLINE_SEC)
    # then the other one did the others, each once
    manifest = json.loads((cell.results / id / "manifest.json").read_text())
    assert {manifest["worker"], first_worker} == {"one", "two"}
    first, second = (_recorded(parts / f"attempt-{attempt}.jsonl") for attempt in (1, manifest["attempt"]))
    assert KILLED_AT <= len(first) < ROWS
    assert first + second == list(range(ROWS))
    # and the result has every row in the order of the input
    items = json.loads((cell.results / id / "responses.json").read_text())["items"]
    assert [(item["index"], item["prompt"]) for item in items] == [(number, f"row {number}") for number in range(ROWS)]
    assert all(item["output"] == item["prompt"] for item in items) or work != ECHO
    assert all(isinstance(item["output"], str) for item in items)
    # and the log has them as durable, no more than there are
    events = cell.http("GET", f"/api/v1/tasks/{id}/events?limit=500")[1]["events"]
    assert Counter(event["type"] for event in events)["RowsCompleted"] >= 2


def _task(name: str, source: Path, work: str) -> str:
    return f"""
apiVersion: mloc/v1
kind: EchoTask
metadata: {{name: {name}}}
spec:
  {work}
  resources: {{tags: [rows]}}
  retry: {{backoff_sec: 0}}
  data: {{jsonl: {{path: {source}}}}}
"""


def _recorded(part: Path) -> list[int]:
    """Indices of the rows in a part, in the order in which they came."""
    try:
        lines = part.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    read = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [record["index"] for record in read if "index" in record]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
