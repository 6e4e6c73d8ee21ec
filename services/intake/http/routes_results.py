"""GET /api/v1/results/…: published results and their files."""

from __future__ import annotations

import mimetypes

import msgspec
from aiohttp import web

from mloc.core.task import Task
from mloc.services.intake.http.api_state import state_of
from mloc.services.intake.http.responses import ApiError, json_response, not_found
from mloc.services.intake.published_results import read_result, result_file, result_folder
from mloc.services.intake.task_requests import words
from mloc.services.results.folders import MANIFEST_FILE, RESULT_FILE

_WITHOUT_RESULT = frozenset({"dead_lettered", "cancelled", "timed_out"})


async def show_result(request: web.Request) -> web.StreamResponse:
    """`responses.json`: as soon as the result is published, before its tree is on disk."""
    state = state_of(request)
    id = request.match_info["id"]
    try:
        task = await state.task(id)
    except ApiError:
        if (file := result_file(state.results_dir, id, RESULT_FILE)) is None:  # it may have left memory
            raise
        return web.FileResponse(file, headers={"Content-Type": "application/json"})
    if task.phase in _WITHOUT_RESULT:
        return json_response({"ok": False, "task_id": task.id, "state": task.phase, "error": _error_of(task)})
    if task.phase != "published":
        hint = f"GET /api/v1/tasks/{task.id}/explain says what it waits for"
        raise ApiError(404, "not_ready", f"{task.id} has no result yet: it is {words(task.phase)}", path=task.id, hint=hint)
    result = await read_result(state.log, state.results_dir, task)
    if result is None:
        place = result_folder(state.results_dir, task.id)
        raise ApiError(404, "result_gone", f"the result of {task.id} is not at {place} any more", path=task.id)
    return web.Response(body=result, content_type="application/json")


async def get_file(request: web.Request) -> web.StreamResponse:
    """A file of the result tree; ranges are served."""
    state = state_of(request)
    id, name = request.match_info["id"], request.match_info["name"]
    file = result_file(state.results_dir, id, name)
    if file is None:
        raise not_found("file", f"{name} in the result of {id}")
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return web.FileResponse(file, headers={"Content-Type": kind, "X-Content-Type-Options": "nosniff"})


async def list_files(request: web.Request) -> web.Response:
    """The manifest: every file of the result with size and sha256."""
    state = state_of(request)
    id = request.match_info["id"]
    manifest = result_file(state.results_dir, id, MANIFEST_FILE)
    if manifest is None:
        raise not_found("result tree of", id)
    return json_response({"ok": True, "task_id": id, "manifest": msgspec.Raw(manifest.read_bytes())})


def _error_of(task: Task) -> object:
    if task.error is not None:
        return msgspec.to_builtins(task.error)
    return {"type": task.phase, "message": task.reason or f"the task is {words(task.phase)}", "retryable": False}
