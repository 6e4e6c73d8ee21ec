"""GET and POST /api/v1/tasks/…: what became of tasks, and what people ask of them."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from mloc.core.events import Event
from mloc.core.explain import explain
from mloc.core.language.secrets import masked
from mloc.core.task import Task
from mloc.services.intake import task_requests
from mloc.services.intake.http.api_state import ApiState, state_of
from mloc.services.intake.http.responses import ApiError, json_response
from mloc.services.intake.published_results import log_text
from mloc.services.intake.task_history import event_view, history_of
from mloc.services.intake.task_query import QueryError, find_tasks, parse_query
from mloc.services.intake.task_requests import RequestRefused
from mloc.services.intake.views import iso, task_page, task_view

MOST_LINES = 5000
_DEFAULT_LINES = 500


async def list_tasks(request: web.Request) -> web.Response:
    return _page_response(state_of(request), await _query_of(request), {})


async def list_dead_letters(request: web.Request) -> web.Response:
    """Tasks that wait for a person, without the pipelines that wait with them."""
    state = state_of(request)
    query = await _query_of(request)
    dead = [task for id in state.cluster.phase("dead_lettered") if not (task := state.cluster.tasks[id]).children]
    dead.sort(key=lambda task: task.since_ms, reverse=True)
    start = (query.page - 1) * query.page_size
    shown = [task_view(state.cluster, task) for task in dead[start : start + query.page_size]]
    return json_response({"ok": True, "tasks": shown, "page": query.page, "page_size": query.page_size, "total": len(dead)})


async def show_task(request: web.Request) -> web.Response:
    state = state_of(request)
    task = await state.task(request.match_info["id"])
    return json_response({"ok": True, **masked(task_page(state.cluster, task))})


async def show_explanation(request: web.Request) -> web.Response:
    state = state_of(request)
    task = await state.task(request.match_info["id"])
    return json_response({"ok": True, "task_id": task.id, **msgspec.to_builtins(explain(state.cluster, task))})


async def show_events(request: web.Request) -> web.Response:
    """The task's history; `?after=<id>` goes on from an event, `?limit=` bounds it."""
    state = state_of(request)
    task = await state.task(request.match_info["id"])
    limit = _limit(request)
    events: list[dict[str, Any]] = []
    async for entry in history_of(state.log, task, _after(request)):
        events.append(event_view(entry))
        if len(events) == limit:
            break
    return json_response({"ok": True, "task_id": task.id, "events": events, "next": events[-1]["id"] if events else None})


async def show_logs(request: web.Request) -> web.Response:
    """Log lines and metric points; `?after=<id>` goes on from a line, `?limit=` bounds it."""
    state = state_of(request)
    task = await state.task(request.match_info["id"])
    points = await state.log.read_telemetry(task.id, _after(request) or "0-0", _limit(request))
    lines = [{"id": id, "at": iso(int(id.partition("-")[0])), **msgspec.to_builtins(point)} for id, point in points]
    if not points and not _after(request):  # telemetry expires; its lines were kept with the result
        kept = log_text(state.results_dir, task).splitlines()[-_limit(request) :]
        return json_response({"ok": True, "task_id": task.id, "lines": [{"line": line} for line in kept], "next": None})
    return json_response({"ok": True, "task_id": task.id, "lines": lines, "next": lines[-1]["id"] if lines else None})


async def cancel_task(request: web.Request) -> web.Response:
    body = await _json_body(request)
    return await _ask(request, lambda task: task_requests.cancel(task, _by(body), str(body.get("reason", ""))))


async def retry_task(request: web.Request) -> web.Response:
    body = await _json_body(request)
    return await _ask(request, lambda task: task_requests.retry(task, _by(body)))


async def change_priority(request: web.Request) -> web.Response:
    body = await _json_body(request)
    return await _ask(request, lambda task: task_requests.change_priority(task, body.get("priority"), _by(body)))


async def _ask(request: web.Request, event_for: Any) -> web.Response:
    """202: the request is in the log; the task's new state follows."""
    state = state_of(request)
    task: Task = await state.task(request.match_info["id"])
    try:
        event: Event = event_for(task)
    except RequestRefused as error:
        raise ApiError(409, "wrong_state", str(error), path=task.id, hint=error.hint) from error
    except ValueError as error:
        raise ApiError(422, "bad_value", str(error), path="priority") from error
    submitted = await state.submitter.request(event)
    return json_response({"ok": True, "task_id": task.id, "state": task.phase, "event_id": submitted.last_id}, 202)


async def _query_of(request: web.Request) -> Any:
    state = state_of(request)
    now_ms = await state.log.now_ms() if "since" in request.query else 0
    return parse_query(request.query, request.query.getall("label", []), now_ms)


def _page_response(state: ApiState, query: Any, more: dict[str, Any]) -> web.Response:
    page = find_tasks(state.cluster, query)
    tasks = [task_view(state.cluster, task) for task in page.tasks]
    return json_response({"ok": True, "tasks": tasks, "page": query.page, "page_size": query.page_size, "total": page.total, **more})


async def _json_body(request: web.Request) -> dict[str, Any]:
    """A JSON object, or nothing."""
    body = await request.read()
    if not body.strip():
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"the body is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ApiError(422, "bad_value", "the body must be a JSON object")
    return value


def _by(body: dict[str, Any]) -> str:
    return str(body.get("by", "")) or "the API"


def _after(request: web.Request) -> str:
    after = request.query.get("after", "")
    milliseconds, _, sequence = after.partition("-")
    if after and not (milliseconds.isdecimal() and (sequence or "0").isdecimal()):
        raise QueryError(f"after takes an event's id, not {after!r}")
    return f"{milliseconds}-{sequence or 0}" if after else ""


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", str(_DEFAULT_LINES))
    if not text.isdecimal() or not 1 <= int(text) <= MOST_LINES:
        raise QueryError(f"limit takes a whole number from 1 to {MOST_LINES:,}, not {text!r}")
    return int(text)
