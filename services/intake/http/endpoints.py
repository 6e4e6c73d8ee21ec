"""All endpoints of the API. A new one is added to the `ENDPOINTS` of its module in `routes`."""

from __future__ import annotations

from mloc.services.intake.http.endpoint import Endpoint
from mloc.services.intake.http.routes import (
    admin,
    attempts,
    health,
    inputs,
    posted_results,
    results,
    stats,
    streams,
    submit,
    tasks,
    uploads,
    workers,
)

ENDPOINTS: tuple[Endpoint, ...] = (
    *submit.ENDPOINTS,
    *tasks.ENDPOINTS,
    *streams.ENDPOINTS,
    *results.ENDPOINTS,
    *posted_results.ENDPOINTS,
    *uploads.ENDPOINTS,
    *inputs.ENDPOINTS,
    *attempts.ENDPOINTS,
    *workers.ENDPOINTS,
    *stats.ENDPOINTS,
    *admin.ENDPOINTS,
    *health.ENDPOINTS,
)
