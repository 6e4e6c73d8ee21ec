"""What the tasks of a period came to, from sums by month, day and hour: asking costs the same for a day and for years.

A period is whole hours, UTC: what it begins within counts whole, and so does what it ends within. A task belongs to the hour of its
submission, with everything that it took later.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from msgspec import Struct, structs

from mloc.services.read_model import schema
from mloc.services.read_model.outcomes import PIPELINE, Summed, Sums, add_sums, bucket_ms
from mloc.services.read_model.writer import DAY_MS, HOUR_MS

MOST_GROUPS = 100  # models, and owners
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}$")
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9000, 1, 1, tzinfo=UTC)


class PeriodError(ValueError):
    """A date that cannot be used; `field` is its name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Period(NamedTuple):
    """From `start_ms` until before `end_ms`."""

    start_ms: int
    end_ms: int


class Took(Struct, frozen=True):
    """Seconds: the mean, and what 95 of 100 did not exceed (within 2.5 %)."""

    mean: float
    p95: float


class TypeStatistics(Struct, frozen=True):
    """Tasks of one type. `run_sec` is from the last attempt's start, `total_sec` from submission, both of published tasks and to their end;
    null for none."""

    tasks: dict[str, int]
    success_rate: float | None
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    requests: int
    gpu_seconds: float
    cpu_seconds: float
    cost: float
    slo_met: int
    slo_missed: int
    run_sec: Took | None
    total_sec: Took | None


class Statistics(TypeStatistics, frozen=True, kw_only=True):
    """`pipelines` are counted apart: their stages are the tasks. `by_model` (the name that the tasks give it) and `by_owner` (where it was asked
    for) have the 100 that took most devices' time, then tokens."""

    by_type: dict[str, TypeStatistics]
    by_model: dict[str, TypeStatistics]
    by_owner: dict[str, TypeStatistics]
    pipelines: dict[str, int]


def period(start: str, end: str) -> Period:
    """From dates or times in ISO 8601; without an offset they are UTC. An `end` that is a date includes that day, a time is not included.
    Empty: without a bound. Raises PeriodError."""
    first = _moment("start_date", start, day_after=False) if start else _EARLIEST
    last = _moment("end_date", end, day_after=True) if end else _LATEST
    if last <= first:
        raise PeriodError("end_date", f"end_date must be after start_date, not {end!r} after {start!r}")
    start_ms, end_ms = int(first.timestamp() * 1000), int(last.timestamp() * 1000)
    return Period(start_ms - start_ms % HOUR_MS, end_ms + -end_ms % HOUR_MS)


def spans(of: Period) -> Iterator[tuple[int, int, int]]:
    """(grain, first start, end) of rows that together are the period: whole months, the days beside them, the hours beside those."""
    days = Period(of.start_ms + -of.start_ms % DAY_MS, of.end_ms - of.end_ms % DAY_MS)
    if days.start_ms >= days.end_ms:
        yield schema.HOUR, of.start_ms, of.end_ms
        return
    yield schema.HOUR, of.start_ms, days.start_ms
    yield schema.HOUR, days.end_ms, of.end_ms
    first, last = _next_month(days.start_ms), _month(days.end_ms)
    if first >= last:
        yield schema.DAY, days.start_ms, days.end_ms
        return
    yield schema.DAY, days.start_ms, first
    yield schema.MONTH, first, last
    yield schema.DAY, last, days.end_ms


def statistics(found: Iterable[Summed]) -> Statistics:
    """What the rows' sums come to."""
    by_type: dict[str, Sums] = {}
    by_model: dict[str, Sums] = {}
    by_owner: dict[str, Sums] = {}
    everything: Sums = {}
    for owner, task_type, model, sums in found:
        if owner:
            if task_type != PIPELINE:
                add_sums(by_owner.setdefault(owner, {}), sums)
            continue
        add_sums(by_type.setdefault(task_type, {}), sums)
        if task_type != PIPELINE:
            add_sums(everything, sums)
            if model:
                add_sums(by_model.setdefault(model, {}), sums)
    pipelines = _states(by_type.pop(PIPELINE, {}))
    return Statistics(
        **structs.asdict(_of_type(everything)), by_type={name: _of_type(sums) for name, sums in sorted(by_type.items())},
        by_model=_largest(by_model), by_owner=_largest(by_owner), pipelines=pipelines,
    )  # fmt: skip


def _largest(groups: dict[str, Sums]) -> dict[str, TypeStatistics]:
    ordered = sorted(groups.items(), key=lambda one: (-one[1].get("gpu_sec", 0.0), -one[1].get("usage.total_tokens", 0), one[0]))
    return {name: _of_type(sums) for name, sums in ordered[:MOST_GROUPS]}


def _of_type(sums: Sums) -> TypeStatistics:
    states = _states(sums)
    good = states.get("published", 0)
    ended = good + states.get("dead_lettered", 0) + states.get("timed_out", 0)
    return TypeStatistics(
        tasks=states, success_rate=good / ended if ended else None,
        prompt_tokens=int(sums.get("usage.prompt_tokens", 0)), completion_tokens=int(sums.get("usage.completion_tokens", 0)),
        total_tokens=int(sums.get("usage.total_tokens", 0)), requests=int(sums.get("usage.num_requests", 0)),
        gpu_seconds=round(sums.get("gpu_sec", 0.0), 3), cpu_seconds=round(sums.get("cpu_sec", 0.0), 3), cost=round(sums.get("cost", 0.0), 6),
        slo_met=int(sums.get("slo.met", 0)), slo_missed=int(sums.get("slo.missed", 0)),
        run_sec=_took(sums, "run"), total_sec=_took(sums, "total"),
    )  # fmt: skip


def _states(sums: Sums) -> dict[str, int]:
    return {what.partition(".")[2]: int(n) for what, n in sorted(sums.items()) if what.startswith("state.") and n > 0}


def _took(sums: Sums, what: str) -> Took | None:
    buckets = sorted((int(name.partition(".")[2]), n) for name, n in sums.items() if name.startswith(f"{what}.") and n > 0)
    count = sum(n for _, n in buckets)
    if not count:
        return None
    seen, p95 = 0.0, 0.0
    for number, n in buckets:
        seen, p95 = seen + n, bucket_ms(number)
        if seen >= 0.95 * count:
            break
    return Took(round(sums.get(f"{what}_ms", 0) / count / 1000, 6), round(p95 / 1000, 6))


def _moment(field: str, text: str, *, day_after: bool) -> datetime:
    try:
        if _DATE.match(text):
            moment = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC) + timedelta(days=1 if day_after else 0)
        else:
            moment = _time(text)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PeriodError(field, f"{field} takes a date (2026-11-21) or a time in ISO 8601 (2026-11-21T14:00:00Z), not {text!r}") from None
    if not _EARLIEST <= moment <= _LATEST:
        raise PeriodError(field, f"{field} must lie between 1970 and {_LATEST.year}, not {text!r}")
    return moment


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return datetime.fromisoformat(text.replace(" ", "+"))  # what a + in a query string comes out as


def _month(ms: int) -> int:
    """Where the month of this moment begins."""
    return int(datetime.fromtimestamp(ms / 1000, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)


def _next_month(ms: int) -> int:
    """Where the first month begins that is not before this moment."""
    begins = _month(ms)
    return begins if begins == ms else _month(begins + 32 * DAY_MS)
