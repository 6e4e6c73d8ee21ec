"""GET /workers, POST /workers/…/drain: the fleet."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from mloc.core.events import WorkerDrainRequested
from mloc.core.worker import Worker
from mloc.services.intake.http.api_state import ApiState, state_of
from mloc.services.intake.http.responses import json_response, not_found
from mloc.services.intake.task_query import parse_query
from mloc.services.intake.views import worker_view


async def list_workers(request: web.Request) -> web.Response:
    """Filters: `state` (alive, lost, retired or a status), `type` (of task), `tag`; `page`, `page_size`."""
    state = state_of(request)
    query = request.query
    page = parse_query({name: query[name] for name in ("page", "page_size") if name in query}, (), 0)
    now_ms = await state.heartbeats.look()
    views = [
        view
        for worker in sorted(state.cluster.workers.values(), key=lambda worker: worker.id)
        if ("type" not in query or query["type"].removeprefix("tasks.") in worker.task_types)
        and ("tag" not in query or query["tag"] in worker.tags)
        and _is_asked(view := _view(state, worker, now_ms), query.get("state", ""))
    ]
    start = (page.page - 1) * page.page_size
    return json_response(
        {"ok": True, "workers": views[start : start + page.page_size], "page": page.page, "page_size": page.page_size, "total": len(views)}
    )


async def show_worker(request: web.Request) -> web.Response:
    state = state_of(request)
    worker = _worker(state, request.match_info["id"])
    now_ms = await state.heartbeats.look()
    return json_response({"ok": True, **_view(state, worker, now_ms)})


async def drain_worker(request: web.Request) -> web.Response:
    """202; the worker finishes what it runs and takes nothing new. `?undo=1` lets it take work again."""
    state = state_of(request)
    worker = _worker(state, request.match_info["id"])
    undo = request.query.get("undo", "0").lower() in ("1", "true", "yes")
    submitted = await state.submitter.request(WorkerDrainRequested(worker=worker.id, by="the API", undo=undo))
    return json_response({"ok": True, "worker_id": worker.id, "draining": not undo, "event_id": submitted.last_id}, 202)


def _worker(state: ApiState, id: str) -> Worker:
    worker = state.cluster.workers.get(id)
    if worker is None:
        raise not_found("worker", id)
    return worker


def _view(state: ApiState, worker: Worker, now_ms: int) -> dict[str, Any]:
    ttl_ms = int(state.settings.heartbeat_ttl_sec * 1000)
    return worker_view(state.cluster, worker, state.heartbeats.latest.get(worker.id), now_ms, ttl_ms)


def _is_asked(view: dict[str, Any], states: str) -> bool:
    return not states or not {view["state"], view["status"].lower()}.isdisjoint(states.lower().split(","))
