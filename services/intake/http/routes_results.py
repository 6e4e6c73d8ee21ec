"""GET /api/v1/results/…: published results and their files."""

from __future__ import annotations

import mimetypes
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from mloc.core.task import Phase, Task
from mloc.services.intake.http.endpoint import Call, Endpoint, Media
from mloc.services.intake.http.responses import ApiError, json_response, not_found
from mloc.services.intake.published_results import read_result, result_file, result_folder, stored_result
from mloc.services.intake.task_requests import words
from mloc.services.intake.views import ErrorView, error_view
from mloc.services.results.folders import MANIFEST_FILE, RESULT_FILE

_WITHOUT_RESULT = frozenset({"dead_lettered", "cancelled", "timed_out"})
_BINARY = {"type": "string", "format": "binary"}
_BYTES = Media({"application/octet-stream": _BINARY, "*/*": _BINARY}, "The file; its content type follows from its name")


class OfResult(Struct, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="Id of the task")]


class OfFile(OfResult, frozen=True, kw_only=True):
    name: Annotated[str, Meta(description="Path of the file in the result's folder, as the manifest names it")]


class Failure(Struct, frozen=True):
    """In the place of the result of a task that has none and will have none."""

    ok: bool
    task_id: str
    state: Phase
    error: ErrorView


class FileList(Struct, frozen=True):
    ok: bool
    task_id: str
    manifest: msgspec.Raw


async def show_result(call: Call[OfResult, None]) -> web.StreamResponse:
    """`responses.json`: as soon as the result is published, before its tree is on disk."""
    state, id = call.state, call.parameters.id
    try:
        task = await state.task(id)
    except ApiError:
        if (file := result_file(state.results_dir, id, RESULT_FILE)) is None:  # it may have left memory
            raise
        return web.FileResponse(file, headers={"Content-Type": "application/json"})
    if task.phase in _WITHOUT_RESULT:
        return json_response(Failure(False, task.id, task.phase, _error_of(task)))
    if task.phase != "published":
        hint = f"GET /api/v1/tasks/{task.id}/explain says what it waits for"
        raise ApiError(404, "not_ready", f"{task.id} has no result yet: it is {words(task.phase)}", path=task.id, hint=hint)
    if (stored := stored_result(state.results_dir, task)) is not None:
        return web.FileResponse(stored, headers={"Content-Type": "application/json"})
    result = await read_result(state.log, state.results_dir, task)
    if result is None:
        place = result_folder(state.results_dir, task.id)
        raise ApiError(404, "result_gone", f"the result of {task.id} is not at {place} any more", path=task.id)
    return web.Response(body=result, content_type="application/json")


async def get_file(call: Call[OfFile, None]) -> web.StreamResponse:
    """A file of the result tree; ranges are served."""
    id, name = call.parameters.id, call.parameters.name
    file = result_file(call.state.results_dir, id, name)
    if file is None:
        raise not_found("file", f"{name} in the result of {id}")
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return web.FileResponse(file, headers={"Content-Type": kind, "X-Content-Type-Options": "nosniff"})


async def list_files(call: Call[OfResult, None]) -> FileList:
    """The manifest: every file of the result with size and sha256."""
    id = call.parameters.id
    manifest = result_file(call.state.results_dir, id, MANIFEST_FILE)
    if manifest is None:
        raise not_found("result tree of", id)
    return FileList(True, id, msgspec.Raw(manifest.read_bytes()))


def _error_of(task: Task) -> ErrorView:
    if task.error is not None:
        return error_view(task.error)
    return ErrorView(task.phase, task.reason or f"the task is {words(task.phase)}", retryable=False)


ENDPOINTS = (
    Endpoint(
        "GET", "/api/v1/results/{id}", show_result, "`responses.json`, from the moment it is published; 404 `not_ready` before", OfResult,
        answers={200: Media({"application/json": dict[str, Any]})},
    ),
    Endpoint(
        "GET", "/api/v1/results/{id}/files", list_files, "The manifest: every file with size and sha256", OfResult,
        answers={200: FileList}, also=("/api/v1/tasks/{id}/files",),
    ),
    Endpoint(
        "GET", "/api/v1/results/{id}/files/{name:.+}", get_file, "A file of the result, with ranges", OfFile,
        answers={200: _BYTES, 206: _BYTES}, errors=(416,), also=("/api/v1/tasks/{id}/files/{name:.+}",),
    ),
)  # fmt: skip
