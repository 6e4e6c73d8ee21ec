"""What keeps one client, or many at once, from taking the API away from the others: a rate for each client, a bound of requests at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from mloc.services.intake.http.endpoint import Endpoint
from mloc.services.intake.http.responses import ApiError

BURST_SEC = 2.0  # a client that was silent may send this much of its rate at once
MOST_CLIENTS = 10_000
_COUNTED: web.RequestKey[Callable[[], None]] = web.RequestKey("counted", Callable[[], None])  # type: ignore[arg-type]


class TokenBuckets:
    """A bucket for each client: `rate` tokens a second come, one request takes one. Time is what `now` gives, seconds."""

    def __init__(self, rate: float, now: Callable[[], float]) -> None:
        self._rate = rate
        self._size = max(1.0, rate * BURST_SEC)
        self._now = now
        self._filled: dict[str, tuple[float, float]] = {}  # client → tokens, at; who waited longest for a request comes first

    def take(self, client: str) -> float:
        """0 where the request may pass, else the seconds until one may."""
        now = self._now()
        tokens, at = self._filled.pop(client, (self._size, now))
        tokens = min(self._size, tokens + (now - at) * self._rate)
        passes = tokens >= 1
        self._filled[client] = (tokens - 1 if passes else tokens, now)
        if len(self._filled) > MOST_CLIENTS:
            del self._filled[next(iter(self._filled))]
        return 0.0 if passes else (1 - tokens) / self._rate


def limited(endpoints: Sequence[Endpoint], rate: float, most: int, now: Callable[[], float]) -> Middleware:
    """429 over `rate` requests a second (0: no bound) of one client, 503 over `most` at a time. What is open to anyone is not counted.

    An answer that is sent piece by piece counts until its first byte."""
    buckets = TokenBuckets(rate, now) if rate else None
    open_paths = {path for endpoint in endpoints if endpoint.access == "open" for path in endpoint.paths}
    under_way = 0

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal under_way
        if request.path in open_paths:
            return await handler(request)
        if buckets is not None and (wait_sec := buckets.take(request.remote or "")) > 0:
            raise _too_fast(rate, math.ceil(wait_sec))
        if under_way >= most:
            hint = "try again; API_MAX_REQUESTS is the bound"
            raise ApiError(503, "too_many_requests_at_once", f"{most} requests are under way", hint=hint, retry_after_sec=1)
        under_way += 1

        def over() -> None:
            nonlocal under_way
            if request.pop(_COUNTED, None):
                under_way -= 1

        request[_COUNTED] = over
        try:
            return await handler(request)
        finally:
            over()

    return check


async def streams_do_not_count(request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: who follows a stream keeps no place among the requests at a time."""
    if not isinstance(response, web.Response) and (over := request.get(_COUNTED)):
        over()


def _too_fast(rate: float, wait_sec: int) -> ApiError:
    hint = f"wait {wait_sec} s; API_RATE_LIMIT is the bound"
    return ApiError(429, "too_many_requests", f"more than {rate:g} requests a second from this address", hint=hint, retry_after_sec=wait_sec)
