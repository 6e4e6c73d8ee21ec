"""What every upload has in common, whatever it is for: it begins, goes on, is stored or refused, and the answer says how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from urllib.parse import quote

from aiohttp import web
from msgspec import Struct

from mloc.core.events import ArtifactStored
from mloc.core.task import Task
from mloc.services.artifacts.names import UnsafeName, safe_name
from mloc.services.artifacts.receiving import UploadBusy
from mloc.services.artifacts.store import Blob, DiskFull, NameTaken, StoreError, Upload, UploadDone
from mloc.services.artifacts.uploading import Progress, TooLarge, WrongContent, WrongOffset
from mloc.services.intake.http.api_state import READ_OWN_WRITES_SEC, ApiState
from mloc.services.intake.http.responses import ApiError, json_response, not_found
from mloc.services.intake.http.upload_requests import NO, YES, UploadHeaders, announced_sha256, announced_size, content_of
from mloc.services.results.folders import ARTIFACTS, attempt_folder, final_folder


class FileStored(Struct, frozen=True):
    """`path` is where the result has the file once it is published; `url` gives it at once."""

    ok: bool
    path: str
    name: str
    size_bytes: int
    sha256: str
    url: str


def safe_path(name: str) -> str:
    try:
        return safe_name(name)
    except UnsafeName as error:
        raise ApiError(400, "bad_name", f"the file's name cannot be used: {error}", path="name") from error


def announced(request: web.Request, state: ApiState, headers: UploadHeaders) -> tuple[str, int]:
    """(sha256, size) as the sender says them; "" and -1 where it does not. Raises ApiError."""
    is_whole = headers.upload_complete == YES
    sha256 = announced_sha256(request, is_whole=is_whole)
    size = announced_size(request, headers, is_whole=is_whole)
    limit = state.uploading.max_bytes
    if size > limit:
        raise ApiError(413, "too_large", f"{size:,} bytes are more than the {limit:,} that one file may have", hint="UPLOAD_MAX_BYTES sets it")
    return sha256, size


def name_taken(message: str) -> ApiError:
    return ApiError(409, "name_taken", message, path="name", hint="nothing was changed; upload it under another name")


async def begin(request: web.Request, state: ApiState, upload: Upload, headers: UploadHeaders) -> web.StreamResponse:
    """The first request of an upload, which may be the only one. Raises ApiError."""
    uploading = state.uploading
    if headers.upload_complete == YES:
        receiving = uploading.receive_whole(upload, content_of(request), hang_up(request))
        return await answered(request, state, "", upload, receiving)
    try:
        id = await asyncio.to_thread(uploading.store.begin, upload)
        if (blob := await asyncio.to_thread(uploading.store.known, upload)) is not None:
            await asyncio.to_thread(uploading.place, id, upload, blob)
            return await say_stored(state, request, upload, blob, 201)
    except (StoreError, OSError) as error:
        raise _refusal(error) from error
    arrived = await bytes_of(state, id, upload)
    if arrived or not request.can_read_body:
        return how_far(state, id, upload, arrived, 201)
    receiving = uploading.receive(id, upload, content_of(request), offset=0, is_last=False, give_up=hang_up(request))
    return await answered(request, state, id, upload, receiving, 201)


async def answered(
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
        return how_far(state, id, upload, progress.offset, status)
    return await say_stored(state, request, upload, progress.blob, 201)


def hang_up(request: web.Request) -> Callable[[], object]:
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
            return name_taken(str(error))
        case UploadBusy() | UploadDone():
            return ApiError(503, "upload_busy", str(error), hint="try again in a moment", retry_after_sec=1)
        case OSError():
            return ApiError(507, "not_stored", f"the file cannot be stored: {error.strerror or error}", hint="look at RESULTS_DIR of the API")
    return ApiError(500, "not_stored", str(error))


# --- answers ---


async def say_stored(state: ApiState, request: web.Request, upload: Upload, blob: Blob, status: int) -> web.StreamResponse:
    """Bytes before events: the log hears of the file now that it is durable."""
    if upload.task and upload.name:
        status = await asyncio.shield(_announced(state, upload, blob, status))  # whoever comes next must find what the log was told
    place, name, url = await _where(state, upload) if upload.task else (upload.path, upload.name, f"inputs/{blob.sha256}/{quote(upload.name)}")
    base = (state.settings.orchestrator_base_url or str(request.url.origin())).rstrip("/")
    path = (state.results_dir / place).absolute()
    answer = json_response(FileStored(True, str(path), name, blob.size, blob.sha256, f"{base}/api/v1/{url}"), status)
    answer.headers["Upload-Complete"] = YES
    return _with_offset(answer, blob.size)


async def _where(state: ApiState, upload: Upload) -> tuple[str, str, str]:
    """A task's file: its path below RESULTS_DIR, its name, its URL below the API's root."""
    task = await state.task(upload.task)
    inside = upload.path.removeprefix(f"{attempt_folder(task.id, upload.attempt)}/")
    if not upload.name:
        return upload.path, inside, f"tasks/{quote(task.id)}/attempts/{upload.attempt}/files/{quote(inside)}"
    inside = f"{ARTIFACTS}/{upload.name}"
    place = f"{final_folder(task.id, is_shard=task.shard is not None)}/{inside}"
    return place, upload.name, f"results/{quote(task.id)}/files/{quote(inside)}"


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


def how_far(state: ApiState, id: str, upload: Upload, offset: int, status: int = 204) -> web.StreamResponse:
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


async def known_upload(state: ApiState, id: str) -> Upload:
    upload = await asyncio.to_thread(state.uploading.store.upload, id)
    if upload is None:
        raise not_found("upload", id)
    return upload


async def bytes_of(state: ApiState, id: str, upload: Upload) -> int:
    return upload.size if upload.is_done else await asyncio.to_thread(state.uploading.store.arrived, id)


def blob_of(state: ApiState, upload: Upload) -> Blob:
    return Blob(state.uploading.store.blob(upload.sha256), upload.sha256, upload.size)
