"""All endpoints of the API. A new one is added to the `ENDPOINTS` of its routes module."""

from __future__ import annotations

from mloc.services.intake.http import (
    routes_admin,
    routes_attempts,
    routes_health,
    routes_inputs,
    routes_posted_results,
    routes_results,
    routes_stats,
    routes_streams,
    routes_submit,
    routes_tasks,
    routes_uploads,
    routes_workers,
)
from mloc.services.intake.http.endpoint import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = (
    *routes_submit.ENDPOINTS,
    *routes_tasks.ENDPOINTS,
    *routes_streams.ENDPOINTS,
    *routes_results.ENDPOINTS,
    *routes_posted_results.ENDPOINTS,
    *routes_uploads.ENDPOINTS,
    *routes_inputs.ENDPOINTS,
    *routes_attempts.ENDPOINTS,
    *routes_workers.ENDPOINTS,
    *routes_stats.ENDPOINTS,
    *routes_admin.ENDPOINTS,
    *routes_health.ENDPOINTS,
)
