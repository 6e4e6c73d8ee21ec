"""GET /healthz, /readyz, /metrics, /openapi.json: the API about itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from aiohttp import web
from msgspec import Struct

from mloc.services.intake.http.api_state import OPENAPI
from mloc.services.intake.http.endpoint import Call, Endpoint, Media, NoParameters
from mloc.services.intake.http.responses import ApiError

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Health(Struct, frozen=True):
    """`event_log`: `ok`, or why it cannot be read. `position`: the newest entry that was folded. `pid`: by which whoever started this process
    knows it from another that took its port."""

    ok: bool
    event_log: str
    position: str
    pid: int


class Readiness(Struct, frozen=True):
    ok: bool
    position: str


class MetricsAsked(Struct, frozen=True):
    """`Accept: application/json` asks for JSON too."""

    format: Literal["prometheus", "json"] | None = None


async def health(call: Call[NoParameters, None]) -> Health:
    """200 while the process serves; what it reads may be old, and `event_log` says so."""
    observer = call.state.observer
    return Health(True, observer.trouble or "ok", observer.cluster.position, os.getpid())


async def ready(call: Call[NoParameters, None]) -> Readiness:
    """200 once the log was folded to its tail and can be read."""
    observer = call.state.observer
    if observer.trouble or not observer.caught_up:
        raise ApiError(503, "not_ready", observer.trouble or "the event log is still being folded", path=call.request.path)
    return Readiness(True, observer.cluster.position)


async def metrics(call: Call[MetricsAsked, None]) -> web.StreamResponse:
    """What the metrics service wrote last."""
    asked = call.parameters.format or ("json" if "application/json" in call.request.headers.get("Accept", "") else "prometheus")
    folder = Path(call.state.settings.orchestrator_state_dir) / "metrics"
    file = folder / ("metrics.json" if asked == "json" else "metrics.prom")
    try:
        body = file.read_bytes()
    except OSError as error:
        hint = "does `mloc metrics` run with the same state folder?"
        raise ApiError(503, "no_metrics", f"{file} cannot be read: {error.strerror}", hint=hint) from error
    return web.Response(body=body, headers={"Content-Type": "application/json" if asked == "json" else PROMETHEUS})


async def openapi(call: Call[NoParameters, None]) -> web.Response:
    """This description."""
    return web.Response(body=call.request.app[OPENAPI], content_type="application/json")


ENDPOINTS = (
    Endpoint("GET", "/healthz", health, "Whether the process serves", answers={200: Health}, also=("/health",), access="open"),
    Endpoint("GET", "/readyz", ready, "200 once the log was folded to its tail, else 503", answers={200: Readiness}, access="open"),
    Endpoint(
        "GET", "/metrics", metrics, "What `mloc metrics` wrote last, for Prometheus or as JSON", MetricsAsked,
        answers={200: Media({"text/plain": str, "application/json": dict[str, Any]})}, access="metrics",
    ),
    Endpoint("GET", "/openapi.json", openapi, "This API as OpenAPI 3.1", answers={200: Media({"application/json": dict[str, Any]})}),
)  # fmt: skip
