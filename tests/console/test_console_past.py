"""Time travel as a person does it: back and forth in a history that goes on meanwhile."""

from __future__ import annotations

from tests.console.fake_source import FakeSource
from tests.console.person import opened, screen_text


async def test_time_travel_goes_back_and_forth_event_by_event_while_live_goes_on(source: FakeSource) -> None:
    async with opened(source) as person:
        total = len(source.entries)
        await person.press("t")
        await person.sees(f"AS OF #{total} of {total}", "t back to live")
        # to the failure before: the task had just been given up
        await person.press("comma")
        at = next(n for n, entry in enumerate(source.entries, 1) if entry.type == "TaskDeadLettered")
        await person.sees(f"AS OF #{at} of", "✗ 1 dead-letter")
        # to the failure before that: it had failed; one event earlier it ran
        await person.press("comma")
        failed = next(n for n, entry in enumerate(source.entries, 1) if entry.type == "AttemptFailed")
        await person.sees(f"AS OF #{failed} of", "! 1 failed")
        await person.press("left")
        await person.sees(f"AS OF #{failed - 1} of")
        await person.sees_no("failed ")
        # live goes on behind it, and is there again at once
        source.history.submit("later", "dpo")
        await person.sees(f"AS OF #{failed - 1} of {total + 1}")
        assert "later" not in screen_text(person.app)
        await person.press(*["right"] * (at - failed + 1))
        await person.sees(f"AS OF #{at} of", "✗ 1 dead-letter")
        await person.press("shift+left")
        await person.sees("AS OF #1 of", "no tasks yet")
        await person.press("t")
        await person.sees("● live", "later")


async def test_a_jump_takes_an_id_a_time_or_an_ordinal_and_says_what_it_does_not_take(source: FakeSource) -> None:
    async with opened(source) as person:
        await person.press("at", *"soon", "enter")
        await person.sees("'soon' is no point of history")
        await person.press(*["backspace"] * 4, "#", "4", "enter")
        await person.sees("AS OF #4 of", "showing 1 of 1")
        await person.press("at", *source.entries[5].id, "enter")
        await person.sees("AS OF #6 of", "showing 3 of 3")


async def test_a_tasks_page_shows_the_past_as_well(source: FakeSource) -> None:
    async with opened(source) as person:
        await person.press("G", "enter")
        await person.sees("✓ published  good")
        ran = next(n for n, entry in enumerate(source.entries, 1) if entry.type == "AttemptStarted" and b'"good"' in entry.payload)
        await person.press("at", "#", *str(ran), "enter")
        shown = await person.sees("▶ running  good", f"AS OF #{ran} of")
        assert "AttemptSucceeded" not in shown
        await person.press("t")
        await person.sees("✓ published  good", "AttemptSucceeded")


async def test_from_the_events_time_travel_goes_to_the_event_under_the_cursor(source: FakeSource) -> None:
    async with opened(source) as person:
        await person.press("5")
        await person.sees("ResultPublished")
        await person.press("g", "j", "j", "t")
        await person.sees("AS OF #3 of", f"3 of {len(source.entries)} events")
