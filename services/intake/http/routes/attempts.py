"""GET /api/v1/tasks/…/attempts/files: what a later attempt can go on with, for workers that do not see the results folder."""

from __future__ import annotations

import asyncio
from typing import Annotated

from msgspec import Meta, Struct

from mloc.services.intake.http.endpoint import Call, Endpoint
from mloc.services.transfers.resuming import LeftFiles, left_files


class OfAttempts(Struct, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="Id of the task")]


async def list_left_files(call: Call[OfAttempts, None]) -> LeftFiles:
    """Rows that earlier attempts recorded, and lists of complete checkpoints, as workers uploaded them."""
    task = await call.state.task(call.parameters.id)
    return LeftFiles(await asyncio.to_thread(left_files, call.state.results_dir, task.id))


ENDPOINTS = (
    Endpoint(
        "GET", "/api/v1/tasks/{id}/attempts/files", list_left_files, "What earlier attempts of a task left for the next", OfAttempts,
        answers={200: LeftFiles},
    ),
)  # fmt: skip
