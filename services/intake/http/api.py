"""The HTTP API: tasks go in, what became of them comes out. `mloc intake-api` runs it; docs/api.md describes it.

Reads are answered from a fold of the log in memory and from the read model, writes go to the log; this process decides nothing and may be
stopped at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sys
import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import web

from mloc.services.exit_codes import CLEAN, MISCONFIGURED
from mloc.services.garbage_collection import collect_seldom, loading
from mloc.services.intake.http.api_guard import one_error_shape, reading_only, token_required
from mloc.services.intake.http.api_limits import limited, streams_do_not_count
from mloc.services.intake.http.api_state import OPENAPI, STATE, ApiState
from mloc.services.intake.http.endpoint_routes import add_routes
from mloc.services.intake.http.endpoints import ENDPOINTS
from mloc.services.intake.http.malformed_requests import listen
from mloc.services.intake.http.openapi import openapi_document
from mloc.services.intake.http.request_body import MAX_BODY_BYTES
from mloc.services.intake.http.upload_expiry import expire_uploads
from mloc.services.log.connection import open_log
from mloc.services.log.event_log import EventLog, LogUnavailable
from mloc.services.observer import Observer, OnBatch
from mloc.services.service_run import snapshots_of
from mloc.services.settings import Settings, api_address
from mloc.services.signals import stop_on_signals

SHUTDOWN_SEC = 5.0


def run(settings: Settings) -> int:
    """Until it is stopped; gives the exit code. Raises SettingsError, NoServerError."""
    collect_seldom()
    return asyncio.run(serve(settings))


def build_app(settings: Settings, log: EventLog, observer: Observer) -> web.Application:
    """All routes over a log and the fold of it, which the caller keeps running."""
    limits = limited(ENDPOINTS, settings.api_rate_limit, settings.api_max_requests, time.monotonic)
    app = web.Application(middlewares=[one_error_shape, limits, token_required(ENDPOINTS), reading_only], client_max_size=MAX_BODY_BYTES)
    app.on_response_prepare.append(streams_do_not_count)
    app[STATE] = state = ApiState(settings, log, observer)
    app.on_cleanup.append(_closing(state))
    app[OPENAPI] = msgspec.json.encode(openapi_document(ENDPOINTS))
    add_routes(app, ENDPOINTS)
    app.on_shutdown.append(_close_streams)
    return app


async def serve(settings: Settings) -> int:
    """Listen first, then fold: /healthz answers at once, /readyz when the log was folded."""
    host, port = api_address(settings)
    log = open_log(settings, "intake-api")
    observer = Observer(log, snapshots=snapshots_of(settings, "scheduler"))
    app = build_app(settings, log, observer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SEC)
    stop = stop_on_signals()
    say = structlog.get_logger()
    listening: asyncio.Server | None = None
    try:
        await runner.setup()
        try:
            listening = await listen(runner, host, port)
        except OSError as error:
            print(f"mloc intake-api: {_cannot_listen(error, host, port)}", file=sys.stderr)
            return MISCONFIGURED
        say.info("the API listens", url=f"http://{host}:{port}", access="with a token" if settings.orchestrator_token else "open")
        following = asyncio.create_task(_follow(observer, app[STATE].index.note))
        stopping, expiring = asyncio.create_task(stop.wait()), asyncio.create_task(expire_uploads(app[STATE]))
        await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        expiring.cancel()
        if following.done():
            following.result()  # it never ends by itself: a mistake of ours is not kept quiet
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        return CLEAN
    finally:
        if listening is not None:
            listening.close()
        await runner.cleanup()
        await log.close()


async def _close_streams(app: web.Application) -> None:
    app[STATE].close_streams()


def _closing(state: ApiState) -> Callable[[web.Application], Awaitable[None]]:
    async def close(app: web.Application) -> None:
        state.index.close()

    return close


async def _follow(observer: Observer, on_batch: OnBatch) -> None:
    with contextlib.suppress(LogUnavailable), loading():  # `follow` says what the trouble is, and tries again
        await observer.catch_up()
    await observer.follow(on_batch)


def _cannot_listen(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: is another API running? Stop it, or set PORT to another one"
    if error.errno == errno.EACCES:
        return f"this user may not listen on port {port}: set PORT to 1024 or more"
    return f"cannot listen on {host}:{port} ({error.strerror}): set MLOC_HOST and PORT"
