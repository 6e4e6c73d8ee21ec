"""Runs a template's tasks through real hosts, doing by hand what the services do between them: inputs, references, shards, publication."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from driven_host import DrivenHost

from mloc.core.host_frames import Failed, RunTask, Stopped, Succeeded
from mloc.core.language.plan import PlannedTask
from mloc.core.language.reading import read_tasks
from mloc.core.language.resolution import resolve_encoded
from mloc.core.language.spec import encode_spec

TEMPLATES = Path(__file__).parents[2] / "templates"


def run_template(name: str, folder: Path, start_host: Callable[..., DrivenHost]) -> dict[str, Any]:
    """Stage name → result. Raises AssertionError with the error of a stage that fails."""
    hosts = [start_host(), start_host()]
    (document,) = read_tasks((TEMPLATES / "core" / f"{name}.yaml").read_text()).documents
    published: dict[str, Any] = {}
    for stage in document.tasks:
        if stage.role == "pipeline":
            continue
        inputs = {of: published[of] for of in stage.depends_on}
        published[stage.suffix] = _run_stage(stage, inputs, folder, hosts)
    return {stage: given["result"] for stage, given in published.items()}


def _run_stage(stage: PlannedTask, inputs: dict[str, Any], folder: Path, hosts: list[DrivenHost]) -> dict[str, Any]:
    spec = resolve_encoded(encode_spec(stage.spec), inputs, {})
    id = stage.id("run")
    count = stage.spec.parallel.shards if stage.spec.parallel is not None else 1
    assert isinstance(count, int)
    for shard in range(count):
        task = f"{id}.s{shard}" if count > 1 else id
        hosts[shard].send(RunTask(
            task, 1, stage.task_type, spec, folder=str(folder / ".attempts" / task / "1"), final_folder=str(folder / task),
            rows_folder=str(folder / ".rows" / task), shard=(shard, count) if count > 1 else None, inputs=inputs,
        ))  # fmt: skip
    parts = [published_result(hosts[shard], f"{id}.s{shard}" if count > 1 else id, folder) for shard in range(count)]
    result = parts[0]
    if count > 1:
        result = {**result, "items": [item for part in parts for item in part["items"]]}
        result["usage"] = {name: sum(part["usage"][name] for part in parts) for name in result["usage"]}
    return {"task_id": id, "folder": str(folder / id), "result": result}


def published_result(host: DrivenHost, task: str, folder: Path, attempt: int = 1) -> dict[str, Any]:
    """The attempt's result once its folder has become the task's."""
    ended = host.wait_for(lambda frame: isinstance(frame, Succeeded | Failed | Stopped) and (frame.task, frame.attempt) == (task, attempt))
    assert isinstance(ended, Succeeded), ended
    attempt_folder = folder / ".attempts" / task / str(attempt)
    if ended.files:
        attempt_folder.rename(folder / task)
    return json.loads(ended.result or (folder / task / "responses.json").read_bytes())
