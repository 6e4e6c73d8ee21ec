"""How a person names a point of history."""

import pytest

from mloc.core import moment
from mloc.core.moment import AtId, AtOrdinal, AtTime

NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1700000000000-3", AtId("1700000000000-3")),
        ("#1234", AtOrdinal(1234)),
        ("#1,234,567", AtOrdinal(1_234_567)),
        ("-5m", AtTime(NOW - 300_000)),
        ("-1.5h", AtTime(NOW - 5_400_000)),
        (" -90s ", AtTime(NOW - 90_000)),
        ("now", AtTime(NOW)),
        ("2023-11-14T22:13:20Z", AtTime(NOW)),
        ("2023-11-14 22:13:20.250+00:00", AtTime(NOW + 250)),
    ],
)
def test_ids_ordinals_times_and_spans_are_understood(text: str, meant: moment.Moment) -> None:
    assert moment.parse(text, NOW) == meant


def test_a_time_of_day_is_of_today() -> None:
    at = moment.parse("9:05", NOW)
    assert isinstance(at, AtTime)
    assert abs(at.ms - NOW) < 86_400_000


@pytest.mark.parametrize("text", ["", "yesterday", "#", "5m", "-5x", "2023-13-01", "99999999999999999999"])
def test_anything_else_is_refused_with_what_is_taken(text: str) -> None:
    with pytest.raises(ValueError, match=r"no point of history; it takes an event id"):
        moment.parse(text, NOW)


def test_the_last_id_of_a_time_is_after_all_entries_of_that_millisecond() -> None:
    assert moment.last_id(AtTime(NOW)).startswith(f"{NOW}-")
    assert moment.iso(NOW + 7) == "2023-11-14T22:13:20.007Z"
