"""GET /healthz, /readyz, /metrics."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from mloc.services.intake.http.api_state import state_of
from mloc.services.intake.http.responses import ApiError, json_response


async def health(request: web.Request) -> web.Response:
    """200 while the process serves; what it reads may be old, and `event_log` says so."""
    observer = state_of(request).observer
    return json_response({"ok": True, "event_log": observer.trouble or "ok", "position": observer.cluster.position})


async def ready(request: web.Request) -> web.Response:
    """200 once the log was folded to its tail and can be read."""
    observer = state_of(request).observer
    if observer.trouble or not observer.caught_up:
        raise ApiError(503, "not_ready", observer.trouble or "the event log is still being folded", path=request.path)
    return json_response({"ok": True, "position": observer.cluster.position})


async def metrics(request: web.Request) -> web.StreamResponse:
    """What the metrics service wrote last: Prometheus text, or JSON with `?format=json`."""
    as_json = request.query.get("format") == "json" or "application/json" in request.headers.get("Accept", "")
    folder = Path(state_of(request).settings.orchestrator_state_dir) / "metrics"
    file = folder / ("metrics.json" if as_json else "metrics.prom")
    try:
        body = file.read_bytes()
    except OSError as error:
        hint = "does `mloc metrics` run with the same state folder?"
        raise ApiError(503, "no_metrics", f"{file} cannot be read: {error.strerror}", hint=hint) from error
    kind = "application/json" if as_json else "text/plain; version=0.0.4; charset=utf-8"
    return web.Response(body=body, headers={"Content-Type": kind})
