"""GET /api/v1/stats: what the tasks of a user and a period came to."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from mloc.core import log_ids
from mloc.services.intake.http.endpoint import Call, Endpoint
from mloc.services.intake.http.responses import ApiError
from mloc.services.intake.views import Time, iso
from mloc.services.read_model.reader import Unreadable
from mloc.services.read_model.statistics import PeriodError, Statistics, period, spans, statistics

_ENDLESS_MS = 200_000_000_000_000  # a period that ends in more than 4,000 years has no end


class StatsAsked(Struct, frozen=True):
    user: Annotated[str, Meta(description="Owner of the tasks; everyone's without one")] = ""
    start_date: Annotated[str, Meta(description="Date or time in ISO 8601 (UTC where it has no offset) of the first submission that counts")] = ""
    by: Annotated[Literal["", "owner"], Meta(description="owner: with `by_owner`, of those who took most")] = ""
    end_date: Annotated[str, Meta(description="The same of the last: a date counts with all of its day, a time is where the period ends")] = ""


class Stats(Statistics, frozen=True, kw_only=True):
    """Tasks that were submitted from `start` until before `end` (whole hours; null for no bound), as they stood at `as_of`."""

    ok: bool
    user: str | None
    start: Time | None
    end: Time | None
    as_of: Time | None


async def show_stats(call: Call[StatsAsked, None]) -> Stats:
    """Cost is WORKER_COST_PER_HOUR by the share of the worker that an attempt held; CPU-seconds are of the cores asked for, at least one."""
    asked = call.parameters
    try:
        of = period(asked.start_date, asked.end_date)
    except PeriodError as error:
        raise ApiError(400, "bad_parameter", str(error), path=error.field) from error
    try:
        cursor, found = await call.state.index.sums(tuple(spans(of)), asked.user, by_owner=asked.by == "owner")
    except Unreadable as error:
        hint = "`mloc metrics` makes the read model in ORCHESTRATOR_STATE_DIR, which must be the one of this API"
        raise ApiError(503, "no_read_model", str(error), hint=hint) from error
    return Stats(
        **msgspec.structs.asdict(statistics(found)), ok=True, user=asked.user or None, start=iso(of.start_ms),
        end=iso(of.end_ms) if of.end_ms < _ENDLESS_MS else None, as_of=iso(log_ids.time_ms(cursor.position)),
    )  # fmt: skip


ENDPOINTS = (
    Endpoint("GET", "/api/v1/stats", show_stats, "What a user's tasks of a period came to", StatsAsked, answers={200: Stats}, errors=(503,)),
)
