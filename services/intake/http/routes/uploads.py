"""POST …/files/{name} and what belongs to it: files of tasks come in, whole or in pieces that survive a cut. docs/api.md shows it."""

from __future__ import annotations

import asyncio
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from mloc.core.task import ENDED, Task
from mloc.services.artifacts.store import Upload
from mloc.services.intake.http.api_state import READ_OWN_WRITES_SEC, ApiState
from mloc.services.intake.http.endpoint import Call, Endpoint, Media, no_body
from mloc.services.intake.http.responses import ApiError, result_expired
from mloc.services.intake.http.upload_answers import (
    FileStored,
    announced,
    answered,
    begin,
    blob_of,
    bytes_of,
    hang_up,
    how_far,
    known_upload,
    name_taken,
    safe_path,
    say_stored,
)
from mloc.services.intake.http.upload_requests import CONTENT, NO, PART, YES, PartHeaders, UploadHeaders, content_of
from mloc.services.intake.task_requests import words
from mloc.services.results.folders import ARTIFACTS, attempt_folder, final_folder
from mloc.services.results.uploads import is_taken

ERRORS = (409, 507)
_PENDING = no_body("What arrived is kept; the Location goes on with it, from Upload-Offset")


class ToTask(UploadHeaders, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="Id of the task")]
    name: Annotated[str, Meta(description="Name of the file below the task's artifacts")]
    attempt: Annotated[int, Meta(description="The attempt that made it; 0: it belongs to the task, whichever attempt is published", ge=0)] = 0
    by: Annotated[str, Meta(description="Worker or person that uploads it", max_length=200)] = ""


class ToAttempt(UploadHeaders, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="Id of the task")]
    attempt: Annotated[int, Meta(description="Number of the attempt", ge=1)]
    name: Annotated[str, Meta(description="Path of the file in the attempt's folder: responses.json, artifacts/model.bin")]


class OfUpload(Struct, frozen=True, kw_only=True):
    upload: Annotated[str, Meta(description="Id of the upload, as its Location has it")]


class PartOfUpload(PartHeaders, frozen=True, kw_only=True):
    upload: Annotated[str, Meta(description="Id of the upload, as its Location has it")]


async def post_file(call: Call[ToTask, None]) -> web.StreamResponse:
    """An artifact of the task."""
    asked = call.parameters
    name = safe_path(asked.name.removeprefix(f"{ARTIFACTS}/"))
    task = await _task_for(call.state, asked.id, asked.attempt)
    known = next((file for file in task.stored if (file.name, file.attempt) == (name, asked.attempt)), None)
    if known is None and len(task.stored) >= call.state.settings.uploads_per_task:
        hint = "pack them into one archive, or set UPLOADS_PER_TASK"
        raise ApiError(409, "too_many_files", f"{task.id} has {len(task.stored):,} uploaded files already", path=task.id, hint=hint)
    upload = _upload(call, task.id, asked.attempt, f"{ARTIFACTS}/{name}", name, asked.by or "the API")
    if known is not None and upload.sha256 and known.sha256 != upload.sha256:
        raise name_taken(f"{name} of {task.id} is there already, with another content")
    return await begin(call.request, call.state, _where_it_is(call.state, task, upload, asked.attempt in (0, task.result_attempt)), asked)


async def post_attempt_file(call: Call[ToAttempt, None]) -> web.StreamResponse:
    """A file of an attempt's folder, from a worker that does not see RESULTS_DIR."""
    asked = call.parameters
    task = await _task_for(call.state, asked.id, asked.attempt)
    upload = _upload(call, task.id, asked.attempt, safe_path(asked.name), "", "")
    placed = _where_it_is(call.state, task, upload, task.result_attempt == asked.attempt)
    if task.phase in ENDED and placed is upload:
        raise _attempt_over(task, asked.attempt)
    return await begin(call.request, call.state, placed, asked)


async def show_upload(call: Call[OfUpload, None]) -> web.StreamResponse:
    """How far an upload is; a client that was cut off goes on from there."""
    upload = await known_upload(call.state, call.parameters.upload)
    return how_far(call.state, call.parameters.upload, upload, await bytes_of(call.state, call.parameters.upload, upload))


async def append_upload(call: Call[PartOfUpload, None]) -> web.StreamResponse:
    """The next bytes; with the last ones the file is stored."""
    state, asked = call.state, call.parameters
    upload = await known_upload(state, asked.upload)
    if upload.is_done:
        return await say_stored(state, call.request, upload, blob_of(state, upload), 200)
    receiving = state.uploading.receive(
        asked.upload, upload, content_of(call.request), offset=asked.upload_offset, is_last=asked.upload_complete == YES,
        give_up=hang_up(call.request),
    )  # fmt: skip
    return await answered(call.request, state, asked.upload, upload, receiving)


async def drop_upload(call: Call[OfUpload, None]) -> web.StreamResponse:
    """Forget an upload; the file, if it was stored already, stays."""
    await known_upload(call.state, call.parameters.upload)
    await asyncio.to_thread(call.state.uploading.store.drop, call.parameters.upload)
    return web.Response(status=204)


# --- whose file it is ---


def _upload(call: Call[ToTask, None] | Call[ToAttempt, None], task: str, attempt: int, path: str, name: str, by: str) -> Upload:
    """Raises ApiError."""
    sha256, size = announced(call.request, call.state, call.parameters)
    return Upload(task, attempt, f"{attempt_folder(task, attempt)}/{path}", name, sha256, size, by)


def _where_it_is(state: ApiState, task: Task, upload: Upload, is_published: bool) -> Upload:
    """The upload into the result's tree, where the file is there already: it can only be the same once more."""
    if task.phase != "published" or not is_published:
        return upload
    inside = upload.path.removeprefix(f"{attempt_folder(task.id, upload.attempt)}/")
    path = f"{final_folder(task.id, is_shard=task.shard is not None)}/{inside}"
    if not (state.results_dir / path).is_file():
        tree = state.results_dir / final_folder(task.id, is_shard=task.shard is not None)
        if is_taken(tree, inside):
            raise name_taken(f"{inside} of {task.id} is a folder there, or lies in what is a file there")
        return upload
    return Upload(upload.task, upload.attempt, path, upload.name, upload.sha256, upload.size, upload.by)


async def _task_for(state: ApiState, id: str, attempt: int) -> Task:
    """Raises ApiError where there is no such task or attempt, or it can have no files any more."""
    task = await state.task(id)
    if task.expired_ms:
        raise result_expired(task)
    if attempt > task.last:
        _, last = await state.log.ends()
        await state.observer.reach(last, READ_OWN_WRITES_SEC)
        task = await state.task(id)
    if attempt > task.last:
        raise ApiError(409, "no_such_attempt", f"{id} has had no attempt {attempt}", path="attempt", hint="the newest is " + str(task.last))
    if attempt and task.phase in ENDED and task.result_attempt != attempt:
        raise _attempt_over(task, attempt)
    return task


def _attempt_over(task: Task, attempt: int) -> ApiError:
    return ApiError(409, "attempt_over", f"{task.id} is {words(task.phase)}: its attempt {attempt} takes no more files", path="attempt")


STORED_OR_BEGUN = Media(
    {"application/json": {"type": "object"}}, f"It is stored, as with 200; after Upload-Complete: {NO}, {_PENDING.about}"
)
ENDPOINTS = (
    Endpoint(
        "POST", "/api/v1/results/{id}/files/{name:.+}", post_file, "Upload an artifact; the same file again changes nothing", ToTask,
        CONTENT, {201: STORED_OR_BEGUN, 200: FileStored}, (410, *ERRORS), also=("/api/v1/tasks/{id}/files/{name:.+}",),
    ),
    Endpoint(
        "POST", r"/api/v1/tasks/{id}/attempts/{attempt:\d+}/files/{name:.+}", post_attempt_file,
        "Upload a file of an attempt's folder, before the attempt ends", ToAttempt, CONTENT, {201: STORED_OR_BEGUN, 200: FileStored}, (410, *ERRORS),
    ),
    Endpoint("GET", "/api/v1/uploads/{upload}", show_upload, "How far an upload is (HEAD does, too)", OfUpload, answers={204: _PENDING}),
    Endpoint(
        "PATCH", "/api/v1/uploads/{upload}", append_upload, "The next bytes of an upload", PartOfUpload, PART,
        {201: FileStored, 200: FileStored, 204: _PENDING}, ERRORS,
    ),
    Endpoint("DELETE", "/api/v1/uploads/{upload}", drop_upload, "Forget an upload", OfUpload, answers={204: no_body("It is gone")}),
)  # fmt: skip
