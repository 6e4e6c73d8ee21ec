"""GET /api/v1/results/…: published results and their files."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct

from mloc.core.task import Phase, Task, failure_of
from mloc.services.intake.http.api_state import ApiState
from mloc.services.intake.http.endpoint import Call, Endpoint, Media, no_body
from mloc.services.intake.http.file_response import send_file
from mloc.services.intake.http.responses import ApiError, json_response, not_found, result_expired
from mloc.services.intake.published_results import is_over, read_result, result_file, result_folder, stored_result
from mloc.services.intake.task_files import find_attempt_file, find_file, manifest_with_uploads
from mloc.services.intake.task_requests import words
from mloc.services.intake.views import ErrorView, error_view
from mloc.services.results.folders import RESULT_FILE
from mloc.services.results.manifest import Manifest

_WITHOUT_RESULT = frozenset({"dead_lettered", "cancelled", "timed_out"})
_BINARY = {"type": "string", "format": "binary"}
_BYTES = Media({"application/octet-stream": _BINARY, "*/*": _BINARY}, "The file; its content type follows from its name")
_UNCHANGED = no_body("It is still what If-None-Match names")


class OfResult(Struct, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="Id of the task")]


class OfFile(OfResult, frozen=True, kw_only=True):
    name: Annotated[str, Meta(description="Path of the file, as the manifest names it; the folder artifacts/ may be left out")]


class OfAttemptFile(OfFile, frozen=True, kw_only=True):
    attempt: Annotated[int, Meta(description="Number of the attempt", ge=0)]


class Failure(Struct, frozen=True):
    """In the place of the result of a task that has none and will have none."""

    ok: bool
    task_id: str
    state: Phase
    error: ErrorView


class FileList(Struct, frozen=True):
    ok: bool
    task_id: str
    manifest: Manifest


async def show_result(call: Call[OfResult, None]) -> web.StreamResponse:
    """`responses.json`: as soon as the result is published, before its tree is on disk."""
    state, id = call.state, call.parameters.id
    try:
        task = await state.task(id)
    except ApiError:
        if (file := result_file(state.results_dir, id, RESULT_FILE)) is None:  # it may have left memory
            raise
        return await send_file(call.request, file)
    if task.ttl_ms and task.phase == "published" and is_over(task, await state.log.now_ms()):
        raise result_expired(task)
    if task.phase in _WITHOUT_RESULT:
        return json_response(Failure(False, task.id, task.phase, error_view(failure_of(task))))
    if task.phase != "published":
        hint = f"GET /api/v1/tasks/{task.id}/explain says what it waits for"
        raise ApiError(404, "not_ready", f"{task.id} has no result yet: it is {words(task.phase)}", path=task.id, hint=hint)
    if (stored := stored_result(state.results_dir, task)) is not None:
        return await send_file(call.request, stored)
    result = await read_result(state.log, state.results_dir, task)
    if result is None:
        place = result_folder(state.results_dir, task.id)
        raise ApiError(404, "result_gone", f"the result of {task.id} is not at {place} any more", path=task.id)
    return web.Response(body=result, content_type="application/json")


async def get_file(call: Call[OfFile, None]) -> web.StreamResponse:
    """A file of the result, an upload also before the result is there."""
    id, name = call.parameters.id, call.parameters.name
    task = await _task_if_known(call.state, call.parameters.id)
    find = partial(find_file, call.state.results_dir, id, task, name)
    found = await asyncio.to_thread(find)
    if found is None:
        if task is not None and task.expired_ms:
            raise result_expired(task)
        hint = f"GET /api/v1/results/{id}/files lists them"
        raise ApiError(404, "not_found", f"there is no file {name} in the result of {id}", path=name, hint=hint)
    return await send_file(call.request, found.path, found.sha256, elsewhere=lambda: again.path if (again := find()) else None)


async def get_attempt_file(call: Call[OfAttemptFile, None]) -> web.StreamResponse:
    """A file of an attempt's folder: what a later attempt goes on with."""
    asked = call.parameters
    task = await call.state.task(asked.id)
    find = partial(find_attempt_file, call.state.results_dir, task, asked.attempt, asked.name)
    found = await asyncio.to_thread(find)
    if found is None:
        raise ApiError(404, "not_found", f"there is no file {asked.name} of attempt {asked.attempt} of {asked.id}", path=asked.name)
    return await send_file(call.request, found.path, found.sha256, elsewhere=lambda: again.path if (again := find()) else None)


async def list_files(call: Call[OfResult, None]) -> FileList:
    """The manifest: every file of the result with size and sha256, and what was uploaded for it."""
    id, task = call.parameters.id, await _task_if_known(call.state, call.parameters.id)
    if task is not None and task.expired_ms:
        raise result_expired(task)
    spec = call.state.cluster.spec_of(task) if task is not None else b""
    manifest = await asyncio.to_thread(manifest_with_uploads, call.state.results_dir, id, task, spec)
    if manifest is None:
        raise not_found("result tree of", id)
    return FileList(True, id, manifest)


async def _task_if_known(state: ApiState, id: str) -> Task | None:
    """None for one that left memory."""
    try:
        return await state.task(id)
    except ApiError:
        return None


ENDPOINTS = (
    Endpoint(
        "GET", "/api/v1/results/{id}", show_result, "`responses.json`, from the moment it is published; 404 `not_ready` before", OfResult,
        answers={200: Media({"application/json": dict[str, Any]})}, errors=(410,),
    ),
    Endpoint(
        "GET", "/api/v1/results/{id}/files", list_files, "The manifest: every file with size and sha256", OfResult,
        answers={200: FileList}, errors=(410,), also=("/api/v1/tasks/{id}/files",),
    ),
    Endpoint(
        "GET", "/api/v1/results/{id}/files/{name:.+}", get_file, "A file of the result, with ranges", OfFile,
        answers={200: _BYTES, 206: _BYTES, 304: _UNCHANGED}, errors=(410, 412, 416), also=("/api/v1/tasks/{id}/files/{name:.+}",),
    ),
    Endpoint(
        "GET", r"/api/v1/tasks/{id}/attempts/{attempt:\d+}/files/{name:.+}", get_attempt_file, "A file of an attempt's folder", OfAttemptFile,
        answers={200: _BYTES, 206: _BYTES, 304: _UNCHANGED}, errors=(412, 416),
    ),
)  # fmt: skip
