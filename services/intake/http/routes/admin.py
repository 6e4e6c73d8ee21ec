"""POST /admin/cleanup: what is needed no more goes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from mloc.services.intake.http.endpoint import Call, Endpoint, NoParameters
from mloc.services.retention.cleanup import clean_up
from mloc.services.retention.leftovers import SETTLED_SEC


class CleanupOrder(Struct, frozen=True, forbid_unknown_fields=True):
    dry_run: Annotated[bool, Meta(description="Only say what would go")] = False
    settled_sec: Annotated[float, Meta(ge=60, description="How long ago a task must have ended")] = SETTLED_SEC
    limit: Annotated[int, Meta(ge=1, le=10_000, description="Most folders in one call, which go at fifty a second")] = 500


class CleanedUp(Struct, frozen=True):
    """`tasks`: whose leftovers went, or would go, and `inputs`, what was uploaded for such tasks. `kept`: how many folders are still needed, or are
    beyond the limit; `expiring`: results that go by themselves when their `ttl_sec` is over."""

    ok: bool
    dry_run: bool
    folders: int
    size_bytes: int
    kept: int
    tasks: tuple[str, ...]
    inputs: tuple[str, ...]
    expiring: int


async def post_cleanup(call: Call[NoParameters, CleanupOrder]) -> CleanedUp:
    """The same as `mloc gc`."""
    order, state = call.body, call.state
    done = await clean_up(
        state.cluster, state.results_dir, await state.log.now_ms(), dry_run=order.dry_run, settled_sec=order.settled_sec, most=order.limit
    )
    return CleanedUp(True, done.dry_run, done.folders, done.size_bytes, done.kept, done.tasks, done.inputs, done.expiring)


ENDPOINTS = (
    Endpoint(
        "POST", "/admin/cleanup", post_cleanup, "Remove what the attempts of ended tasks left", NoParameters, CleanupOrder,
        answers={200: CleanedUp}, also=("/api/v1/admin/cleanup",),
    ),
)  # fmt: skip
