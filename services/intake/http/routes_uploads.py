"""POST …/files/{name} and what belongs to it: files of tasks come in, whole or in pieces that survive a cut. docs/artifacts.md shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated
from urllib.parse import quote

from aiohttp import web
from msgspec import Meta, Struct

from mloc.core.events import ArtifactStored
from mloc.core.task import ENDED, Task
from mloc.services.artifacts.names import UnsafeName, safe_name
from mloc.services.artifacts.receiving import UploadBusy
from mloc.services.artifacts.store import Blob, DiskFull, NameTaken, StoreError, Upload, UploadDone
from mloc.services.artifacts.uploading import Progress, TooLarge, WrongContent, WrongOffset
from mloc.services.intake.http.api_state import READ_OWN_WRITES_SEC, ApiState
from mloc.services.intake.http.endpoint import Call, Endpoint, Media, no_body
from mloc.services.intake.http.responses import ApiError, json_response, not_found
from mloc.services.intake.http.upload_requests import (
    CONTENT,
    NO,
    PART,
    YES,
    PartHeaders,
    UploadHeaders,
    announced_sha256,
    announced_size,
    content_of,
)
from mloc.services.intake.task_requests import words
from mloc.services.results.folders import ARTIFACTS, attempt_folder, final_folder

_ERRORS = (409, 507)
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


class FileStored(Struct, frozen=True):
    """`path` is where the result has the file once it is published; `url` gives it at once."""

    ok: bool
    path: str
    name: str
    size_bytes: int
    sha256: str
    url: str


async def post_file(call: Call[ToTask, None]) -> web.StreamResponse:
    """An artifact of the task."""
    asked = call.parameters
    name = _safe(asked.name.removeprefix(f"{ARTIFACTS}/"))
    task = await _task_for(call.state, asked.id, asked.attempt)
    known = next((file for file in task.stored if (file.name, file.attempt) == (name, asked.attempt)), None)
    if known is None and len(task.stored) >= call.state.settings.uploads_per_task:
        hint = "pack them into one archive, or set UPLOADS_PER_TASK"
        raise ApiError(409, "too_many_files", f"{task.id} has {len(task.stored):,} uploaded files already", path=task.id, hint=hint)
    upload = _upload(call, task.id, asked.attempt, f"{ARTIFACTS}/{name}", name, asked.by or "the API")
    if known is not None and upload.sha256 and known.sha256 != upload.sha256:
        raise _name_taken(f"{name} of {task.id} is there already, with another content")
    return await _begin(call, call.state, _where_it_is(call.state, task, upload, asked.attempt in (0, task.result_attempt)))


async def post_attempt_file(call: Call[ToAttempt, None]) -> web.StreamResponse:
    """A file of an attempt's folder, from a worker that does not see RESULTS_DIR."""
    asked = call.parameters
    task = await _task_for(call.state, asked.id, asked.attempt)
    upload = _upload(call, task.id, asked.attempt, _safe(asked.name), "", "")
    placed = _where_it_is(call.state, task, upload, task.result_attempt == asked.attempt)
    if task.phase in ENDED and placed is upload:
        raise _attempt_over(task, asked.attempt)
    return await _begin(call, call.state, placed)


async def show_upload(call: Call[OfUpload, None]) -> web.StreamResponse:
    """How far an upload is; a client that was cut off goes on from there."""
    upload = await _known_upload(call.state, call.parameters.upload)
    return _progress(call.state, call.parameters.upload, upload, await _arrived(call.state, call.parameters.upload, upload))


async def append_upload(call: Call[PartOfUpload, None]) -> web.StreamResponse:
    """The next bytes; with the last ones the file is stored."""
    state, asked = call.state, call.parameters
    upload = await _known_upload(state, asked.upload)
    if upload.is_done:
        return await _stored(state, call.request, upload, _blob_of(state, upload), 200)
    receiving = state.uploading.receive(
        asked.upload, upload, content_of(call.request), offset=asked.upload_offset, is_last=asked.upload_complete == YES,
        give_up=_hang_up(call.request),
    )  # fmt: skip
    return await _answered(call.request, state, asked.upload, upload, receiving)


async def drop_upload(call: Call[OfUpload, None]) -> web.StreamResponse:
    """Forget an upload; the file, if it was stored already, stays."""
    await _known_upload(call.state, call.parameters.upload)
    await asyncio.to_thread(call.state.uploading.store.drop, call.parameters.upload)
    return web.Response(status=204)


# --- whose file it is ---


def _upload(call: Call[ToTask, None] | Call[ToAttempt, None], task: str, attempt: int, path: str, name: str, by: str) -> Upload:
    """Raises ApiError."""
    is_whole = call.parameters.upload_complete == YES
    sha256 = announced_sha256(call.request, is_whole=is_whole)
    size = announced_size(call.request, call.parameters, is_whole=is_whole)
    limit = call.state.uploading.max_bytes
    if size > limit:
        raise ApiError(413, "too_large", f"{size:,} bytes are more than the {limit:,} that one file may have", hint="UPLOAD_MAX_BYTES sets it")
    return Upload(task, attempt, f"{attempt_folder(task, attempt)}/{path}", name, sha256, size, by)


def _where_it_is(state: ApiState, task: Task, upload: Upload, is_published: bool) -> Upload:
    """The upload into the result's tree, where the file is there already: it can only be the same once more."""
    if task.phase != "published" or not is_published:
        return upload
    inside = upload.path.removeprefix(f"{attempt_folder(task.id, upload.attempt)}/")
    path = f"{final_folder(task.id, is_shard=task.shard is not None)}/{inside}"
    if not (state.results_dir / path).is_file():
        return upload
    return Upload(upload.task, upload.attempt, path, upload.name, upload.sha256, upload.size, upload.by)


async def _task_for(state: ApiState, id: str, attempt: int) -> Task:
    """Raises ApiError where there is no such task or attempt, or it can have no files any more."""
    task = await state.task(id)
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


def _safe(name: str) -> str:
    try:
        return safe_name(name)
    except UnsafeName as error:
        raise ApiError(400, "bad_name", f"the file's name cannot be used: {error}", path="name") from error


def _name_taken(message: str) -> ApiError:
    return ApiError(409, "name_taken", message, path="name", hint="nothing was changed; upload it under another name")


# --- what comes ---


async def _begin(call: Call[ToTask, None] | Call[ToAttempt, None], state: ApiState, upload: Upload) -> web.StreamResponse:
    request, uploading = call.request, state.uploading
    if call.parameters.upload_complete == YES:
        receiving = uploading.receive_whole(upload, content_of(request), _hang_up(request))
        return await _answered(request, state, "", upload, receiving)
    try:
        id = await asyncio.to_thread(uploading.store.begin, upload)
        if (blob := await asyncio.to_thread(uploading.store.known, upload)) is not None:
            await asyncio.to_thread(uploading.place, id, upload, blob)
            return await _stored(state, request, upload, blob, 201)
    except (StoreError, OSError) as error:
        raise _refusal(error) from error
    arrived = await _arrived(state, id, upload)
    if arrived or not request.can_read_body:
        return _progress(state, id, upload, arrived, 201)
    receiving = uploading.receive(id, upload, content_of(request), offset=0, is_last=False, give_up=_hang_up(request))
    return await _answered(request, state, id, upload, receiving, 201)


async def _answered(
    request: web.Request, state: ApiState, id: str, upload: Upload, receiving: Coroutine[None, None, Progress], status: int = 204
) -> web.StreamResponse:
    """What became of an upload; `status` is for one that is not complete yet."""
    try:
        progress = await receiving
    except WrongOffset as error:
        answer = ApiError(409, "wrong_offset", str(error), path="Upload-Offset", hint="HEAD of the upload says how far it is").response()
        return _with_offset(answer, error.offset)
    except ConnectionError as error:  # nobody will read this
        raise ApiError(400, "broken_off", "the sender went away; what came is kept") from error
    except (StoreError, UploadBusy, OSError) as error:
        raise _refusal(error) from error
    if progress.blob is None:
        return _progress(state, id, upload, progress.offset, status)
    return await _stored(state, request, upload, progress.blob, 201)


def _hang_up(request: web.Request) -> Callable[[], object]:
    def hang_up() -> None:
        if request.transport is not None:
            request.transport.abort()

    return hang_up


def _refusal(error: Exception) -> ApiError:
    match error:
        case TimeoutError():
            return ApiError(408, "too_slow", "nothing came for a minute; what came before is kept", hint="go on with PATCH")
        case WrongContent():
            return ApiError(422, "wrong_content", str(error), path="Repr-Digest", hint="send it again, from the start")
        case TooLarge():
            return ApiError(413, "too_large", str(error))
        case DiskFull():
            return ApiError(507, "disk_full", str(error), hint="free some space for RESULTS_DIR, then send it again")
        case NameTaken():
            return _name_taken(str(error))
        case UploadBusy() | UploadDone():
            return ApiError(503, "upload_busy", str(error), hint="try again in a moment", retry_after_sec=1)
        case OSError():
            return ApiError(507, "not_stored", f"the file cannot be stored: {error.strerror or error}", hint="look at RESULTS_DIR of the API")
    return ApiError(500, "not_stored", str(error))


# --- answers ---


async def _stored(state: ApiState, request: web.Request, upload: Upload, blob: Blob, status: int) -> web.StreamResponse:
    """Bytes before events: the log hears of the file now that it is durable."""
    if upload.name:
        status = await asyncio.shield(_announced(state, upload, blob, status))  # whoever comes next must find what the log was told
    task = await state.task(upload.task)
    base = state.settings.orchestrator_base_url or str(request.url.origin())
    inside = upload.path.removeprefix(f"{attempt_folder(task.id, upload.attempt)}/")
    place = upload.path
    if upload.name:
        inside = f"{ARTIFACTS}/{upload.name}"
        place = f"{final_folder(task.id, is_shard=task.shard is not None)}/{inside}"
        url = f"{base.rstrip('/')}/api/v1/results/{quote(task.id)}/files/{quote(inside)}"
    else:
        url = f"{base.rstrip('/')}/api/v1/tasks/{quote(task.id)}/attempts/{upload.attempt}/files/{quote(inside)}"
    answer = json_response(FileStored(True, str(state.results_dir / place), upload.name or inside, blob.size, blob.sha256, url), status)
    answer.headers["Upload-Complete"] = YES
    return _with_offset(answer, blob.size)


async def _announced(state: ApiState, upload: Upload, blob: Blob, status: int) -> int:
    """The answer's status: 200 where the log knew the file."""
    async with state.uploading.turn(upload.task):
        if _is_known(await state.task(upload.task), upload, blob):
            return 200
        event = ArtifactStored(
            task=upload.task, name=upload.name, sha256=blob.sha256, size_bytes=blob.size, attempt=upload.attempt, by=upload.by
        )
        submitted = await state.submitter.request(event)
        await state.observer.reach(submitted.last_id, READ_OWN_WRITES_SEC)
        return status


def _is_known(task: Task, upload: Upload, blob: Blob) -> bool:
    mine = (upload.name, upload.attempt, blob.sha256)
    is_in_tree = not upload.path.startswith(f"{attempt_folder(task.id, upload.attempt)}/")
    return is_in_tree or any((file.name, file.attempt, file.sha256) == mine for file in task.stored)


def _progress(state: ApiState, id: str, upload: Upload, offset: int, status: int = 204) -> web.StreamResponse:
    headers = {"Location": f"/api/v1/uploads/{id}", "Upload-Complete": YES if upload.is_done else NO, "Cache-Control": "no-store"}
    headers["Upload-Limit"] = f"max-size={state.uploading.max_bytes}, max-age={int(state.settings.upload_expire_sec)}"
    if upload.size >= 0:
        headers["Upload-Length"] = str(upload.size)
    answer = web.Response(status=204) if status == 204 else json_response({"ok": True, "upload": id, "offset": offset}, status)
    answer.headers.update(headers)
    return _with_offset(answer, offset)


def _with_offset(answer: web.Response, offset: int) -> web.Response:
    answer.headers["Upload-Offset"] = str(offset)
    return answer


async def _known_upload(state: ApiState, id: str) -> Upload:
    upload = await asyncio.to_thread(state.uploading.store.upload, id)
    if upload is None:
        raise not_found("upload", id)
    return upload


async def _arrived(state: ApiState, id: str, upload: Upload) -> int:
    return upload.size if upload.is_done else await asyncio.to_thread(state.uploading.store.arrived, id)


def _blob_of(state: ApiState, upload: Upload) -> Blob:
    return Blob(state.uploading.store.blob(upload.sha256), upload.sha256, upload.size)


_STORED_OR_BEGUN = Media(
    {"application/json": {"type": "object"}}, f"It is stored, as with 200; after Upload-Complete: {NO}, {_PENDING.about}"
)
ENDPOINTS = (
    Endpoint(
        "POST", "/api/v1/results/{id}/files/{name:.+}", post_file, "Upload an artifact; the same file again changes nothing", ToTask,
        CONTENT, {201: _STORED_OR_BEGUN, 200: FileStored}, _ERRORS, also=("/api/v1/tasks/{id}/files/{name:.+}",),
    ),
    Endpoint(
        "POST", r"/api/v1/tasks/{id}/attempts/{attempt:\d+}/files/{name:.+}", post_attempt_file,
        "Upload a file of an attempt's folder, before the attempt ends", ToAttempt, CONTENT, {201: _STORED_OR_BEGUN, 200: FileStored}, _ERRORS,
    ),
    Endpoint("GET", "/api/v1/uploads/{upload}", show_upload, "How far an upload is (HEAD does, too)", OfUpload, answers={204: _PENDING}),
    Endpoint(
        "PATCH", "/api/v1/uploads/{upload}", append_upload, "The next bytes of an upload", PartOfUpload, PART,
        {201: FileStored, 200: FileStored, 204: _PENDING}, _ERRORS,
    ),
    Endpoint("DELETE", "/api/v1/uploads/{upload}", drop_upload, "Forget an upload", OfUpload, answers={204: no_body("It is gone")}),
)  # fmt: skip
