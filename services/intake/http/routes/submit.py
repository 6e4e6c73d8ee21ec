"""POST /api/v1/tasks: a task file goes in, whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mloc.core.cluster import Cluster
from mloc.core.events import Need, TaskSubmitted
from mloc.core.explain import Explanation, explain_submission
from mloc.core.language.errors import LanguageError
from mloc.core.language.plan import Plan
from mloc.core.language.reading import read_tasks
from mloc.services.artifacts.inputs import inputs_in, keep, unkeep
from mloc.services.intake.destinations import destination_warnings
from mloc.services.intake.http.api_guard import reading_error
from mloc.services.intake.http.api_state import READ_OWN_WRITES_SEC, ApiState
from mloc.services.intake.http.endpoint import Call, Endpoint, Media
from mloc.services.intake.http.request_body import task_text, whole_body
from mloc.services.intake.http.responses import ApiError
from mloc.services.intake.known_tasks import KnownTasks
from mloc.services.intake.local_paths import with_absolute_paths
from mloc.services.intake.submission import Submission, submission_of, unoffered_types
from mloc.services.intake.views import AcceptedTask, accepted_view, repeated_view
from mloc.services.log.event_log import BacklogFull, KeyConflict, Submitted

LARGE_BODY_BYTES = 32 * 1024  # reading more than this off the loop keeps other requests going
LONGEST_KEY = 200
_TASK = {
    "anyOf": [
        {"type": "object", "description": "One task, or {\"yaml\": the text of a task file}"},
        {"type": "array", "items": {"type": "object"}, "description": "Several tasks"},
        {"type": "string", "description": "The text of a task file"},
    ]
}


class SubmissionAsked(Struct, frozen=True):
    dry_run: Annotated[bool, Meta(description="Only check, and say where each task would go now")] = False
    idempotency_key: Annotated[
        str, Meta(description="The same key with the same body gives the first tasks again", extra={"in": "header"})
    ] = msgspec.field(name="Idempotency-Key", default="")  # fmt: skip


class Accepted(Struct, frozen=True):
    """`task_id` is the first of `task_ids`; `worker_id` the worker of the first task, where it has one already."""

    ok: bool
    task_id: str
    task_ids: tuple[str, ...]
    count: int
    tasks: tuple[AcceptedTask, ...]
    worker_id: str | None
    topic: str
    warnings: tuple[str, ...]
    repeated: bool | UnsetType = UNSET


class PlacedTask(Struct, frozen=True):
    """A task of a dry run: `placement.worker` is where it would go now; where there is none, `placement` says why and what would help."""

    name: str
    stage: str | None
    kind: str
    task_type: str
    depends_on: tuple[str, ...]
    need: Need | None
    placement: Explanation | None


class DryRun(Struct, frozen=True):
    """Nothing was submitted and nothing is reserved."""

    ok: bool
    dry_run: bool
    tasks: tuple[PlacedTask, ...]
    warnings: tuple[str, ...]


async def post_tasks(call: Call[SubmissionAsked, None]) -> Accepted | DryRun:
    """201 with the ids; with `?dry_run=1` 200 with where each task would go, and nothing submitted."""
    state, request = call.state, call.request
    key = _checked_key(call.parameters.idempotency_key.strip())
    body = await whole_body(request, state.settings.api_body_sec)
    plans, warnings = await _read(task_text(body, request.content_type), state.folder)
    submission = submission_of(
        plans, new_id=state.ids.new, known=KnownTasks(state.cluster, state.results_dir, state.index), defaults=state.defaults,
        key=key, body_sha256=hashlib.sha256(body).hexdigest() if key else "",
    )  # fmt: skip
    warnings += destination_warnings(plans, state.results_dir, state.settings.allowed_output_roots)
    warnings += unoffered_types(submission.events, state.cluster.workers.values())
    if call.parameters.dry_run:
        return DryRun(True, True, tuple(_placed(state.cluster, event) for event in submission.events), tuple(warnings))
    if inputs := {(sha256, event.task) for event in submission.events for sha256 in inputs_in([bytes(event.spec)])}:
        await asyncio.to_thread(keep, state.results_dir, inputs)
    try:
        submitted = await state.submitter.submit(submission, state.cluster.open_count(), state.cluster.position)
    except (KeyConflict, BacklogFull):  # nothing was taken, and nothing needs them
        await asyncio.to_thread(unkeep, state.results_dir, inputs)
        raise
    if submitted.repeated:
        await asyncio.to_thread(unkeep, state.results_dir, inputs)
        return await _repeated(state, submitted)
    return _accepted(submission, warnings)


def _checked_key(key: str) -> str:
    if key and (len(key) > LONGEST_KEY or not key.isprintable() or not key.isascii() or set(key) & set(" {}")):
        raise ApiError(
            400, "bad_idempotency_key", "the idempotency key cannot be used", path="Idempotency-Key",
            hint=f"at most {LONGEST_KEY} ASCII characters without blanks and braces",
        )  # fmt: skip
    return key


async def _read(text: str, folder: Path) -> tuple[tuple[Plan, ...], list[str]]:
    try:
        read = await asyncio.to_thread(read_tasks, text) if len(text) > LARGE_BODY_BYTES else read_tasks(text)
    except LanguageError as error:
        raise reading_error(error, text) from error
    plans, missing = with_absolute_paths(read.documents, folder, text, missing_is_wrong=False)
    warnings = [f"{problem.path}: {problem.found} is not on this machine; the workers must see it" for problem in missing]
    return plans, [str(problem) for problem in read.warnings] + warnings


def _accepted(submission: Submission, warnings: list[str]) -> Accepted:
    ids = tuple(event.task for event in submission.events)
    task_type = next((event.task_type for event in submission.events if event.task_type), "")
    tasks = tuple(accepted_view(event) for event in submission.events)
    return Accepted(True, ids[0], ids, len(ids), tasks, None, f"tasks.{task_type}", tuple(warnings))


async def _repeated(state: ApiState, submitted: Submitted) -> Accepted:
    """The answer of the first time, from what the log says of its tasks now."""
    await state.observer.reach(submitted.last_id, READ_OWN_WRITES_SEC)
    known = [task for id in submitted.tasks if (task := state.cluster.tasks.get(id))]
    task_type = next((task.task_type for task in known if task.task_type), "")
    tasks = tuple(repeated_view(state.cluster, task) for task in known)
    worker = next((task.worker for task in known if task.worker), None)
    ids = submitted.tasks
    return Accepted(True, ids[0], ids, len(ids), tasks, worker, f"tasks.{task_type}", (), repeated=True)


def _placed(cluster: Cluster, event: TaskSubmitted) -> PlacedTask:
    """Where a task would go now, or why not."""
    return PlacedTask(
        name=event.name, stage=event.stage or None, kind=event.kind, task_type=event.task_type or "pipeline",
        depends_on=tuple(id.rpartition(".")[2] if event.parent and id.startswith(event.parent) else id for id in event.depends_on),
        need=event.need, placement=explain_submission(cluster, event),
    )  # fmt: skip


ENDPOINTS = (
    Endpoint(
        "POST", "/api/v1/tasks", post_tasks, "Submit a task file, whole or not at all", SubmissionAsked,
        body=Media({"text/yaml": str, "application/json": _TASK}), answers={201: Accepted, 200: DryRun}, errors=(409,),
    ),
)  # fmt: skip
