"""What happens, as it happens: the events of the log, the history of a task and its log lines, each once or followed live."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from mloc.core import codec, log_ids
from mloc.core.codec import CodecError
from mloc.core.event_line import describe
from mloc.core.task import FINAL, Task
from mloc.services.intake.http.api_state import READ_OWN_WRITES_SEC, ApiState
from mloc.services.intake.http.endpoint import Call, Endpoint, Media
from mloc.services.intake.http.responses import ApiError
from mloc.services.intake.http.stream_response import Form, ReaderGone, StreamedResponse, form_of, sse_frame
from mloc.services.intake.published_results import result_folder
from mloc.services.intake.streams.event_stream import Wanted, follow, position_of, wanted_of
from mloc.services.intake.streams.event_tail import Followed, Gap
from mloc.services.intake.streams.line_text import line_text
from mloc.services.intake.streams.log_lines import Line, LogLines, has_ended, parts_of
from mloc.services.intake.task_history import AFTER_END_MS, event_view, history_of
from mloc.services.intake.views import iso
from mloc.services.log.event_log import LogError

MOST_LINES = 5000
MOST_STREAMS = 4000
HELD_BACK_SEC = 0.02  # until lines of this millisecond are of the past

_ID = "^[0-9]{1,19}(-[0-9]{1,19})?$"
_AN_ID = ["1767323045006-0"]
_LINE_ID = "^[0-9]{1,19}(-[0-9]{1,19})?(:[A-Za-z0-9_.-]{1,200})?$"


class Followable(Struct, frozen=True, kw_only=True):
    heartbeat: Annotated[float, Meta(ge=0.05, le=300, description="Of a live stream: seconds of silence until a sign of life")] = 15.0
    last_event_id_header: Annotated[
        str,
        Meta(
            description="Go on after this event; a client that was cut off sends it by itself", pattern=_LINE_ID, examples=_AN_ID,
            extra={"in": "header"},
        ),
    ] = msgspec.field(name="Last-Event-ID", default="")
    last_event_id: Annotated[str, Meta(description="The same, for clients that cannot set the header", pattern=_LINE_ID, examples=_AN_ID)] = ""

    @property
    def resumes_after(self) -> str:
        return self.last_event_id_header or self.last_event_id


class EventsAsked(Followable, frozen=True, kw_only=True):
    start: Annotated[Literal["start", "now"], Meta(description="Where a new stream begins")] = msgspec.field(name="from", default="now")
    after: Annotated[str, Meta(description="Begin behind this id or time (milliseconds since 1970)", pattern=_ID, examples=_AN_ID)] = ""
    task: Annotated[str, Meta(description="Only events of this task and its parts")] = ""
    type: Annotated[str, Meta(description="Only events of these types, several with commas")] = ""
    worker: Annotated[str, Meta(description="Only events that name this worker")] = ""


class HistoryAsked(Followable, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="Id of the task")]
    after: Annotated[str, Meta(description="Go on after the event of this id", pattern=_ID, examples=_AN_ID)] = ""
    limit: Annotated[int, Meta(ge=1, le=MOST_LINES)] = 500
    follow: Annotated[bool, Meta(description="Stay until the task is over, and send what comes")] = False


class LinesAsked(Followable, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="Id of the task")]
    after: Annotated[str, Meta(description="Go on after the line of this id", pattern=_LINE_ID, examples=_AN_ID)] = ""
    limit: Annotated[int, Meta(ge=1, le=MOST_LINES)] = 500
    follow: Annotated[bool, Meta(description="Stay until the task is over, and send what comes")] = False


class EventList(Struct, frozen=True):
    """`next`: what `after` takes for the following page; null where there was nothing more."""

    ok: bool
    task_id: str
    events: list[dict[str, Any]]
    next: str | None


class LineList(Struct, frozen=True):
    ok: bool
    task_id: str
    lines: list[dict[str, Any]]
    next: str | None


async def stream_events(call: Call[EventsAsked, None]) -> web.StreamResponse:
    """The events of the log from a position on, for ever."""
    asked, tail = call.parameters, call.state.events
    wanted = wanted_of({"task": asked.task, "type": asked.type, "worker": asked.worker})
    try:
        position = await position_of(tail, last_event_id=_full_id(asked.resumes_after), after=_full_id(asked.after), start=asked.start)
    except Gap as gap:
        raise _gone(gap) from gap
    form: Form = "ndjson" if form_of(call.request) == "ndjson" and "ndjson" in call.request.headers.get("Accept", "") else "sse"
    return await _stream_events(call.request, call.state, form, asked.heartbeat, position, wanted)


async def show_events(call: Call[HistoryAsked, None]) -> EventList | web.StreamResponse:
    """The task's history in the log."""
    asked, state = call.parameters, call.state
    task = await state.task(asked.id)
    after = _full_id(asked.resumes_after or asked.after)
    if asked.follow:
        try:
            if asked.resumes_after:
                await state.events.check(after, exact=True)
        except Gap as gap:
            raise _gone(gap) from gap
        position = after or f"{max(0, task.submitted_ms - 1)}-0"
        wanted = Wanted(task=task.id)
        return await _stream_events(call.request, state, form_of(call.request), asked.heartbeat, position, wanted, lambda: _end_ms(state, task))
    events: list[dict[str, Any]] = []
    async for entry in history_of(state.log, task, after):
        events.append(event_view(entry))
        if len(events) == asked.limit:
            break
    return EventList(True, task.id, events, events[-1]["id"] if events else None)


async def show_logs(call: Call[LinesAsked, None]) -> LineList | web.StreamResponse:
    """Log lines and metric points of the task and its parts."""
    state, asked = call.state, call.parameters
    await _known_or_kept(state, asked.id)
    lines = LogLines(state.log, state.results_dir, asked.id, asked.resumes_after or asked.after)
    if asked.follow:
        return await _stream_lines(call.request, state, lines, asked.id, asked.heartbeat)
    shown: list[Line] = []
    while len(shown) < asked.limit:
        shown += (came := await lines.read(*await _parts_and_clock(state, asked.id)))
        if not came:
            break
    shown = shown[: asked.limit]
    return LineList(True, asked.id, [line.view() for line in shown], shown[-1].id if shown else None)


# --- events ---


async def _stream_events(
    request: web.Request, state: ApiState, form: Form, heartbeat_sec: float, position: str, wanted: Wanted,
    end_ms: Callable[[], int | None] = lambda: None,
) -> web.StreamResponse:  # fmt: skip
    _check_room(state)
    out = StreamedResponse(request, form, heartbeat_sec)
    try:
        await out.begin(position)
        try:
            async for step in follow(state.events, position, wanted, quiet_sec=heartbeat_sec, end_ms=end_ms):
                if step.events:
                    await out.send(_event_frame(form, event) for event in step.events)
                else:
                    await out.idle(step.position)
        except Gap as gap:
            return await out.end("gap", {"code": gap.code, "message": str(gap), "first": gap.first})
        return await (out.end() if state.events.closed else out.end("end", {"task_id": wanted.task}))
    except ReaderGone:
        return out.let_go()


def _event_frame(form: Form, event: Followed) -> bytes:
    match form:
        case "sse":
            return sse_frame(event.id, event.type, event.json)
        case "ndjson":
            return event.json + b"\n"
        case "text":
            return f"{iso(event.key[0])} {event.type} {event.task} {_said(event)}".rstrip().encode() + b"\n"


def _said(event: Followed) -> str:
    try:
        return describe(codec.decode(event.type, event.payload))
    except CodecError:
        return ""


def _end_ms(state: ApiState, task: Task) -> int | None:
    """Once the task is over: the time after which its history has nothing more."""
    now = state.cluster.tasks.get(task.id)
    if now is None:
        return task.since_ms + AFTER_END_MS
    if not has_ended(state.cluster, task.id):
        return None
    return now.since_ms + AFTER_END_MS if now.phase in FINAL else log_ids.time_ms(state.cluster.position)


# --- lines ---


async def _stream_lines(request: web.Request, state: ApiState, lines: LogLines, root: str, heartbeat_sec: float) -> web.StreamResponse:
    _check_room(state)
    out = StreamedResponse(request, form_of(request), heartbeat_sec)
    many = len(parts_of(state.cluster, root)) > 1
    said: dict[str, str] = {}
    try:
        await out.begin()
        async for some in _lines_to_the_end(state, lines, root, heartbeat_sec):
            if some:
                await out.send(_line_frame(out.form, line, many, said) for line in some)
            else:
                await out.idle()
        task = state.cluster.tasks.get(root)
        ended = {"task_id": root, "state": task.phase if task else None}
        return await (out.end() if state.lines.closed else out.end("end", ended))
    except ReaderGone:
        return out.let_go()


async def _lines_to_the_end(state: ApiState, lines: LogLines, root: str, quiet_sec: float) -> AsyncIterator[list[Line]]:
    """Lines as they come; an empty list after a while without any."""

    def is_over() -> bool:
        return has_ended(state.cluster, root)

    with state.events.following():
        while not state.lines.closed:
            over = is_over()
            try:
                came = await lines.read(*await _parts_and_clock(state, root))
            except LogError:
                await state.events.moved(quiet_sec)
                came = []
            else:
                if not came and lines.caught_up:
                    if over:
                        return
                    await state.lines.news(dict(lines.after), is_over, quiet_sec)
                elif not lines.caught_up:
                    await state.events.moved(HELD_BACK_SEC)
            yield came


async def _parts_and_clock(state: ApiState, root: str) -> tuple[list[str], int]:
    """The parts that have attempts: all that could have said something before the clock was read."""
    task = state.cluster.tasks.get(root)
    if task is None or not task.children:
        return [root], 0
    clock_ms = await state.log.now_ms()
    _, last = await state.log.ends()
    folded = await state.observer.reach(last, READ_OWN_WRITES_SEC)
    return parts_of(state.cluster, root), clock_ms if folded else 0


async def _known_or_kept(state: ApiState, id: str) -> None:
    """Raises ApiError 404 for a task of which there is neither a state nor a result."""
    try:
        await state.task(id)
    except ApiError:
        if not (result_folder(state.results_dir, id) / "logs").is_dir():
            raise


def _line_frame(form: Form, line: Line, many: bool, said: dict[str, str]) -> bytes:
    """`said`: the last text of each task, which this one is put into."""
    match form:
        case "sse":
            return sse_frame(line.id, "line" if line.point.line else "metrics", msgspec.json.encode(line.view()))
        case "ndjson":
            return msgspec.json.encode(line.view()) + b"\n"
        case "text":
            if not (text := line_text(line.view(), said.get(line.task, ""))):
                return b""
            said[line.task] = text
            return f"{f'{line.key[1] or line.task} | ' if many else ''}{text}\n".encode()


# --- both ---


def _check_room(state: ApiState) -> None:
    if state.events.followers >= MOST_STREAMS:
        raise ApiError(503, "too_many_streams", f"{MOST_STREAMS:,} streams are open already", hint="close some, or start another API")


def _gone(gap: Gap) -> ApiError:
    hint = "begin anew with ?from=start (all that the log still has) or ?from=now"
    return ApiError(410, gap.code, str(gap), path="Last-Event-ID", hint=hint)


def _full_id(id: str) -> str:
    """An id as the log takes it."""
    milliseconds, _, sequence = id.partition(":")[0].partition("-")
    return f"{milliseconds}-{sequence or 0}" if id else ""


_ABOUT = "With `follow` a stream, which docs/api.md shows"
_TEXT = {"type": "string"}
_FORMS: dict[str, Any] = {"text/event-stream": _TEXT, "application/x-ndjson": _TEXT, "text/plain": _TEXT}

ENDPOINTS = (
    Endpoint(
        "GET", "/api/v1/events", stream_events, "The events of the log, live; goes on exactly after `Last-Event-ID`", EventsAsked,
        answers={200: Media(_FORMS, "A stream without an end; docs/api.md shows it")}, errors=(410,),
    ),
    Endpoint(
        "GET", "/api/v1/tasks/{id}/events", show_events, "Its history in the log; live with `follow`", HistoryAsked,
        answers={200: Media({"application/json": EventList, **_FORMS}, _ABOUT)}, errors=(410,),
    ),
    Endpoint(
        "GET", "/api/v1/tasks/{id}/logs", show_logs, "Its log lines and metric points; live with `follow`", LinesAsked,
        answers={200: Media({"application/json": LineList, **_FORMS}, _ABOUT)},
    ),
)  # fmt: skip
