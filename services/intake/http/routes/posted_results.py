"""POST /api/v1/results: a result that a task of this cell was to send here. What the cell has already stays as it is; a repeat does no harm."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec import Struct

from mloc.core.callbacks import END_OF
from mloc.services.intake.http.endpoint import Call, Endpoint, Media, NoParameters
from mloc.services.intake.http.responses import ApiError
from mloc.services.intake.published_results import LARGE_BYTES, read_result, result_folder, stored_result
from mloc.services.intake.task_requests import words

MAX_RESULT_BYTES = 64 << 20
SLOWEST_BYTES_PER_SEC = 1 << 20


class PostedResult(Struct, frozen=True):
    """What the http destination of a task gets."""

    task_id: str
    result: dict[str, Any]
    worker_id: str | None = None
    metadata: dict[str, Any] = {}


class ResultHere(Struct, frozen=True):
    """`path` is the folder of the result."""

    ok: bool
    path: str


async def post_result(call: Call[NoParameters, None]) -> ResultHere:
    """A task's success is in the log before anyone posts it: what comes here is held against that, and kept nowhere else."""
    state = call.state
    try:
        posted = msgspec.json.decode(await _body(call), type=PostedResult)
    except msgspec.ValidationError as error:
        raise ApiError(422, "bad_value", f"the body is no posted result: {error}", hint="send {task_id, result, worker_id, metadata}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"the body is no JSON: {error}") from error
    task = await state.task(posted.task_id)
    if task.phase not in END_OF:
        raise ApiError(425, "not_ended", f"{task.id} is {words(task.phase)}: its result comes from its worker", path="task_id", hint="post it again")
    folder = result_folder(state.results_dir, task.id)
    if task.phase == "published" and not await _is_the_same(call, posted):
        raise ApiError(409, "other_result", f"{task.id} has another result already", path="result", hint="nothing was changed")
    return ResultHere(True, str(folder.absolute()))


async def _is_the_same(call: Call[NoParameters, None], posted: PostedResult) -> bool:
    """A large one is not held in memory for this: what is published stays in any case."""
    task = await call.state.task(posted.task_id)
    stored = await asyncio.to_thread(stored_result, call.state.results_dir, task)
    if stored is not None and stored.stat().st_size > LARGE_BYTES:
        return True
    known = await read_result(call.state.log, call.state.results_dir, task)
    return known is None or msgspec.json.decode(known) == posted.result


async def _body(call: Call[NoParameters, None]) -> bytes:
    """Larger than a task file may be. Raises ApiError."""
    request, pieces, size = call.request, list[bytes](), 0
    limit_sec = call.state.settings.api_body_sec + (request.content_length or 0) / SLOWEST_BYTES_PER_SEC
    try:
        async with asyncio.timeout(limit_sec):
            async for piece in request.content.iter_chunked(1 << 16):
                size += len(piece)
                if size > MAX_RESULT_BYTES:
                    raise ApiError(413, "too_large", f"a posted result may be {MAX_RESULT_BYTES >> 20} MiB large")
                pieces.append(piece)
    except TimeoutError:
        raise ApiError(408, "slow_body", f"the body did not arrive within {limit_sec:g} s") from None
    return b"".join(pieces)


ENDPOINTS = (
    Endpoint(
        "POST", "/api/v1/results", post_result, "A result that the http destination of a task sends to this API", NoParameters,
        Media({"application/json": PostedResult}), answers={200: ResultHere}, errors=(404, 409, 425),
    ),
)  # fmt: skip
