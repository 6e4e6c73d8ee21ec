"""GET /workers, POST /workers/…/drain, …/elastic: the fleet."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from mloc.core.events import WorkerDrainRequested, WorkerElasticChanged
from mloc.core.worker import Worker
from mloc.services.intake.http.api_state import ApiState
from mloc.services.intake.http.endpoint import Call, Endpoint
from mloc.services.intake.http.responses import not_found
from mloc.services.intake.task_query import MAX_PAGE_SIZE
from mloc.services.intake.worker_views import WorkerView, worker_view


class WorkersAsked(Struct, frozen=True):
    state: Annotated[str, Meta(description="alive, lost, retired or a status; several with commas")] = ""
    type: Annotated[str, Meta(description="A task type that the worker takes")] = ""
    tag: Annotated[str, Meta(description="A tag that the worker has")] = ""
    page: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    page_size: Annotated[int, Meta(ge=1, le=MAX_PAGE_SIZE)] = 50


class OfWorker(Struct, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="Id of the worker")]


class DrainAsked(OfWorker, frozen=True, kw_only=True):
    undo: Annotated[bool, Meta(description="Let the worker take work again")] = False


class WorkerList(Struct, frozen=True):
    ok: bool
    workers: list[WorkerView]
    page: int
    page_size: int
    total: int


class WorkerShown(WorkerView, frozen=True, kw_only=True):
    ok: bool


class Drained(Struct, frozen=True):
    """`event_id`: the request in the log; the worker's state follows it."""

    ok: bool
    worker_id: str
    draining: bool
    event_id: str


class ElasticOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """`enabled: false`: no new work for the worker, also after its restart; what runs goes on."""

    enabled: bool
    by: str = ""
    reason: str = ""


class ElasticChanged(Struct, frozen=True):
    ok: bool
    worker_id: str
    enabled: bool
    event_id: str


async def list_workers(call: Call[WorkersAsked, None]) -> WorkerList:
    """The fleet by id, with each worker's last heartbeat."""
    state, asked = call.state, call.parameters
    now_ms = await state.heartbeats.look()
    views = [
        view
        for worker in sorted(state.cluster.workers.values(), key=lambda worker: worker.id)
        if (not asked.type or asked.type.removeprefix("tasks.") in worker.task_types)
        and (not asked.tag or asked.tag in worker.tags)
        and _is_asked(view := _view(state, worker, now_ms), asked.state)
    ]
    start = (asked.page - 1) * asked.page_size
    return WorkerList(True, views[start : start + asked.page_size], asked.page, asked.page_size, len(views))


async def show_worker(call: Call[OfWorker, None]) -> WorkerShown:
    worker = _worker(call.state, call.parameters.id)
    now_ms = await call.state.heartbeats.look()
    return WorkerShown(ok=True, **msgspec.structs.asdict(_view(call.state, worker, now_ms)))


async def drain_worker(call: Call[DrainAsked, None]) -> Drained:
    """202; the worker finishes what it runs and takes nothing new. `?undo=1` lets it take work again."""
    worker, undo = _worker(call.state, call.parameters.id), call.parameters.undo
    submitted = await call.state.submitter.request(WorkerDrainRequested(worker=worker.id, by="the API", undo=undo))
    return Drained(True, worker.id, not undo, submitted.last_id)


async def switch_worker(call: Call[OfWorker, ElasticOrder]) -> ElasticChanged:
    """202; the worker shows DISABLED while it is off."""
    worker, asked = _worker(call.state, call.parameters.id), call.body
    event = WorkerElasticChanged(worker=worker.id, enabled=asked.enabled, by=asked.by or "the API", reason=asked.reason)
    submitted = await call.state.submitter.request(event)
    return ElasticChanged(True, worker.id, asked.enabled, submitted.last_id)


def _worker(state: ApiState, id: str) -> Worker:
    worker = state.cluster.workers.get(id)
    if worker is None:
        raise not_found("worker", id)
    return worker


def _view(state: ApiState, worker: Worker, now_ms: int) -> WorkerView:
    ttl_ms = int(state.settings.heartbeat_ttl_sec * 1000)
    return worker_view(state.cluster, worker, state.heartbeats.latest.get(worker.id), now_ms, ttl_ms)


def _is_asked(view: WorkerView, states: str) -> bool:
    return not states or not {view.state, view.status.lower()}.isdisjoint(states.lower().split(","))


ENDPOINTS = (
    Endpoint("GET", "/api/v1/workers", list_workers, "The fleet", WorkersAsked, answers={200: WorkerList}, also=("/workers",)),
    Endpoint("GET", "/api/v1/workers/{id}", show_worker, "One worker", OfWorker, answers={200: WorkerShown}, also=("/workers/{id}",)),
    Endpoint(
        "POST", "/api/v1/workers/{id}/drain", drain_worker, "No new work for it; `?undo=1` takes that back", DrainAsked,
        answers={202: Drained}, also=("/workers/{id}/drain",),
    ),
    Endpoint(
        "POST", "/api/v1/workers/{id}/elastic", switch_worker, "Switch it off or on; what runs goes on", OfWorker, ElasticOrder,
        answers={202: ElasticChanged}, also=("/workers/{id}/elastic",),
    ),
)  # fmt: skip
