"""The aiohttp routes of declared endpoints: read what is asked, call the handler, send its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from mloc.services.intake.http.api_state import state_of
from mloc.services.intake.http.endpoint import Call, Endpoint
from mloc.services.intake.http.request_reading import read_body, read_parameters
from mloc.services.intake.http.responses import json_response


def add_routes(app: web.Application, endpoints: Sequence[Endpoint]) -> None:
    """GET serves HEAD too."""
    for endpoint in endpoints:
        for path in endpoint.paths:
            app.router.add_route(endpoint.method, path, served(endpoint))
            if endpoint.method == "GET":
                app.router.add_route("HEAD", path, served(endpoint))


def served(endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The endpoint as aiohttp calls it."""

    async def serve(request: web.Request) -> web.StreamResponse:
        state = state_of(request)
        parameters = read_parameters(endpoint, request)
        body = await read_body(endpoint, request, state.settings.api_body_sec)
        answer = await endpoint.handler(Call(request, state, parameters, body))
        return answer if isinstance(answer, web.StreamResponse) else json_response(answer, endpoint.status_of(answer))

    return serve
