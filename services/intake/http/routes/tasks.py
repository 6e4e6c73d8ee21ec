"""GET and POST /api/v1/tasks/…: what became of tasks, and what people ask of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from mloc.core.events import Event
from mloc.core.explain import Reason, WorkerVerdict, explain
from mloc.core.task import Phase, Task
from mloc.services.intake import task_requests
from mloc.services.intake.http.endpoint import Call, Endpoint
from mloc.services.intake.http.responses import ApiError
from mloc.services.intake.task_names import UnknownTask, task_meant
from mloc.services.intake.task_query import MAX_PAGE_SIZE, SORTS, QueryError, TaskQuery, matches, parse_query
from mloc.services.intake.task_requests import RequestRefused
from mloc.services.intake.views import TaskPage, TaskView, task_page, task_view


class TasksAsked(Struct, frozen=True):
    """Empty filters nothing."""

    state: Annotated[str, Meta(description="States or statuses, several with commas")] = ""
    status: Annotated[str, Meta(description="The same as `state`")] = ""
    kind: Annotated[str, Meta(description="The file's kind, or the task type")] = ""
    owner: str = ""
    project: str = ""
    label: Annotated[tuple[str, ...], Meta(description="NAME=VALUE; repeat it for several labels")] = ()
    worker: Annotated[str, Meta(description="Id of the worker of the present or last attempt")] = ""
    parent: Annotated[str, Meta(description="Id of a pipeline or a sharded task; `none` for tasks that are part of nothing")] = ""
    since: Annotated[str, Meta(description="An age (15m, 2h, 1d), a time in ISO 8601, or milliseconds since 1970")] = ""
    sort: Annotated[str, Meta(description=f"One of {', '.join(SORTS)}")] = "newest"
    page: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    page_size: Annotated[int, Meta(ge=1, le=MAX_PAGE_SIZE)] = 50


class TaskListAsked(TasksAsked, frozen=True):
    cursor: Annotated[str, Meta(description="`next_cursor` of the page before, with the same filters and order; instead of `page`")] = ""


class OfTask(Struct, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="Id of the task")]


class OfName(Struct, frozen=True, kw_only=True):
    name: Annotated[str, Meta(description="Id of a task, or its name, or how its id begins")]


class TaskNamed(Struct, frozen=True):
    ok: bool
    task_id: str


class Cancellation(Struct, frozen=True, forbid_unknown_fields=True):
    by: str = ""
    reason: str = ""


class RetryOrder(Struct, frozen=True, forbid_unknown_fields=True):
    by: str = ""


class PriorityOrder(Struct, frozen=True, forbid_unknown_fields=True):
    priority: Annotated[int, Meta(ge=0, le=100)]
    by: str = ""


class TaskList(Struct, frozen=True):
    """`total` is over all pages, or only the least that there are where `total_is_at_least`. `next_cursor` is null on the last page."""

    ok: bool
    tasks: list[TaskView]
    page: int
    page_size: int
    total: int
    total_is_at_least: bool = False
    next_cursor: str | None = None
    warnings: tuple[str, ...] = ()


class TaskShown(TaskPage, frozen=True, kw_only=True):
    ok: bool


class TaskExplained(Struct, frozen=True):
    """`reason` is one of a few words, `summary` says it to a person, `workers` has each worker's verdict.

    `worker` is where it would go now, `change` the smallest change that would let it run where no worker fits; each may be empty."""

    ok: bool
    task_id: str
    reason: Reason
    summary: str
    workers: tuple[WorkerVerdict, ...]
    worker: str
    change: str


class RequestTaken(Struct, frozen=True):
    """The request is in the log under `event_id`; the task's new state follows. `state` is the present one."""

    ok: bool
    task_id: str
    state: Phase
    event_id: str


async def list_tasks(call: Call[TaskListAsked, None]) -> TaskList:
    """All tasks there ever were: finished ones are kept on disk. A cursor goes on where the last page ended, at any depth as fast."""
    query = await _query_of(call)
    await call.state.reach_end()
    try:
        page = await call.state.index.find(query)
    except QueryError as error:
        raise ApiError(400, "bad_parameter", str(error), path="cursor") from error
    tasks = [task_view(call.state.cluster, task) for task in page.tasks]
    return TaskList(
        True, tasks, query.page, query.page_size, page.total, page.total_is_at_least, page.next_cursor or None, page.warnings
    )  # fmt: skip


async def list_dead_letters(call: Call[TasksAsked, None]) -> TaskList:
    """Tasks that wait for a person, without the pipelines that wait with them."""
    cluster, query = call.state.cluster, await _query_of(call)
    dead = [task for id in cluster.phase("dead_lettered") if not (task := cluster.tasks[id]).children and matches(task, query)]
    dead.sort(key=lambda task: task.since_ms, reverse=True)
    start = (query.page - 1) * query.page_size
    shown = [task_view(cluster, task) for task in dead[start : start + query.page_size]]
    return TaskList(True, shown, query.page, query.page_size, len(dead))


async def show_task(call: Call[OfTask, None]) -> TaskShown:
    """One that left memory is read from the read model, its spec from the log."""
    state = call.state
    task = await state.task(call.parameters.id)
    parts = [part for id in task.children if (part := state.index.get(id)) is not None]
    return TaskShown(ok=True, **msgspec.structs.asdict(task_page(state.cluster, task, parts, await state.index.spec(task))))


async def show_name(call: Call[OfName, None]) -> TaskNamed:
    """However old it is: those in memory are gone through, those before are looked up."""
    state, name = call.state, call.parameters.name
    await state.reach_end()
    try:
        return TaskNamed(True, task_meant(name, state.cluster, state.index).id)
    except UnknownTask as error:
        raise ApiError(404, "unknown_task", str(error), path=name) from error


async def show_explanation(call: Call[OfTask, None]) -> TaskExplained:
    task = await call.state.task(call.parameters.id)
    said = explain(call.state.cluster, task)
    return TaskExplained(True, task.id, said.reason, said.summary, said.workers, said.worker, said.change)


async def cancel_task(call: Call[OfTask, Cancellation]) -> RequestTaken:
    return await _ask(call, lambda task: task_requests.cancel(task, call.body.by or "the API", call.body.reason))


async def retry_task(call: Call[OfTask, RetryOrder]) -> RequestTaken:
    return await _ask(call, lambda task: task_requests.retry(task, call.body.by or "the API"))


async def change_priority(call: Call[OfTask, PriorityOrder]) -> RequestTaken:
    return await _ask(call, lambda task: task_requests.change_priority(task, call.body.priority, call.body.by or "the API"))


async def _ask(call: Call[OfTask, Any], event_for: Callable[[Task], Event]) -> RequestTaken:
    task = await call.state.task(call.parameters.id)
    try:
        event = event_for(task)
    except RequestRefused as error:
        raise ApiError(409, "wrong_state", str(error), path=task.id, hint=error.hint) from error
    submitted = await call.state.submitter.request(event)
    return RequestTaken(True, task.id, task.phase, submitted.last_id)


async def _query_of(call: Call[TasksAsked, None] | Call[TaskListAsked, None]) -> TaskQuery:
    asked = msgspec.structs.asdict(call.parameters)
    labels = asked.pop("label")
    now_ms = await call.state.log.now_ms() if asked["since"] else 0
    try:
        return parse_query({name: str(value) for name, value in asked.items()}, labels, now_ms)
    except QueryError as error:
        raise ApiError(400, "bad_parameter", str(error), path=str(error).partition(" ")[0]) from error


ENDPOINTS = (
    Endpoint("GET", "/api/v1/tasks", list_tasks, "Tasks: filtered, sorted, paged", TaskListAsked, answers={200: TaskList}),
    Endpoint("GET", "/api/v1/tasks/{id}", show_task, "One task with its parts and its spec", OfTask, answers={200: TaskShown}),
    Endpoint(
        "GET", "/api/v1/names/{name}", show_name, "Which task is meant: that of this id, the newest so named, or the only one whose id begins so",
        OfName, answers={200: TaskNamed},
    ),
    Endpoint("GET", "/api/v1/tasks/{id}/explain", show_explanation, "Why it waits, worker by worker", OfTask, answers={200: TaskExplained}),
    Endpoint(
        "POST", "/api/v1/tasks/{id}/cancel", cancel_task, "Stop it for good; 409 where it has ended", OfTask, Cancellation,
        answers={202: RequestTaken}, errors=(409,),
    ),
    Endpoint(
        "POST", "/api/v1/tasks/{id}/retry", retry_task, "Run a task again that waits for a person; 409 for any other", OfTask, RetryOrder,
        answers={202: RequestTaken}, errors=(409,),
    ),
    Endpoint(
        "POST", "/api/v1/tasks/{id}/priority", change_priority, "Change its place among those that wait", OfTask, PriorityOrder,
        answers={202: RequestTaken}, errors=(409,),
    ),
    Endpoint("GET", "/api/v1/dead_letters", list_dead_letters, "Tasks that wait for a person", TasksAsked, answers={200: TaskList}),
)  # fmt: skip
