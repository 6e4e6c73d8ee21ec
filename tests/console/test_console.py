"""The console as a person uses it: keys in, what is on the screen out. Over a history that grows when the test says so."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
import zstandard

from mloc.console.app import main
from mloc.console.listed_entries import open_archive
from mloc.console.row_table import RowTable
from mloc.core.events import CallbackFailed, CancelRequested, Receiver, RetryRequested, TaskCancelled
from mloc.services.log.event_log import Heartbeat, TelemetryPoint
from tests.console.fake_source import FakeSource
from tests.console.person import a_history, opened
from tests.histories import History


async def test_it_opens_on_the_tasks_with_what_needs_attention_first(source: FakeSource) -> None:
    async with opened(source) as person:
        shown = await person.sees("showing 7 of 7", "1 dead-letter", "● live")
        rows = [line for line in shown.splitlines() if any(f" {id} " in line for id in ("bad", "long", "odd", "p", "good"))]
        assert [row.split()[2 if row.startswith("▸") is False else 3] for row in rows][:3] == ["bad", "long", "odd"]
        assert "▸ ✗ dead-letter" in rows[0]
        assert "no such column" in rows[0]


async def test_new_events_show_by_themselves_and_the_cursor_stays_on_its_row(source: FakeSource) -> None:
    async with opened(source) as person:
        await person.press("j")
        assert person.app.query_one(RowTable).cursor_key == "long"
        source.history.submit("later", "dpo")
        source.history.submit("worse", "dpo")
        await person.sees("showing 9 of 9", "later")
        assert person.app.query_one(RowTable).cursor_key == "long"


async def test_the_filter_narrows_the_list_says_what_is_wrong_and_goes_away(source: FakeSource) -> None:
    async with opened(source) as person:
        await person.press("slash", *"state:publishd")
        await person.sees("did you mean published?")
        await person.press("backspace", *"ed /./", "enter")
        shown = await person.sees("showing 4 of 7")
        assert "did you mean" not in shown
        await person.press("escape")
        await person.sees("showing 7 of 7")


async def test_a_tasks_page_tells_its_state_its_history_its_spec_and_its_result(source: FakeSource) -> None:
    async with opened(source) as person:
        await person.press("G", "enter")
        await person.sees("✓ published  good", "AttemptSucceeded", "worker")
        await person.press("right_square_bracket")
        await person.sees("5 events of this task", "TaskDispatched")
        await person.press("right_square_bracket")
        await person.sees("taskType: echo", "- good")
        await person.press("left_square_bracket", "left_square_bracket", "left_square_bracket")
        await person.sees('"ok": true', '"good"')
        await person.press("escape")
        await person.sees("showing 7 of 7")


async def test_a_tasks_page_says_who_was_not_told_of_its_end(source: FakeSource) -> None:
    history = source.history
    history.submit("hooked", receivers=(Receiver("notice", "https://h/done?token=x"),))
    history.add(TaskCancelled(task="hooked"))
    ended_ms = history.cluster.tasks["hooked"].callbacks[0].ended_ms
    history.add(CallbackFailed(task="hooked", what="notice", ended_ms=ended_ms, status=400, error="no such run"))
    async with opened(source) as person:
        await person.press("slash", *"hooked", "enter")
        await person.sees("showing 1 of 8")
        await person.press("enter")
        await person.sees("webhook https://h/done?… given up after 1 try: no such run")


async def test_a_console_that_ends_shows_nothing_more(source: FakeSource) -> None:
    async with opened(source) as person:
        app = person.app
    assert app.screen_stack == []
    app._show_if_changed()  # as its timer may, once more


async def test_a_tasks_page_says_why_it_is_pending(source: FakeSource) -> None:
    async with opened(source) as person:
        await person.press("j", "j", "enter")
        await person.sees("○ ready  odd", "why it does not run", "none of 2 workers offers task type dpo", "it does not offer task type dpo")


async def test_a_running_tasks_page_shows_its_log_and_its_curve_as_they_come(source: FakeSource) -> None:
    async with opened(source) as person:
        await person.press("j", "enter")
        await person.sees("▶ running  long")
        now = source.history.now_ms
        points = [TelemetryPoint(1, step=step, total_steps=40, metrics={"loss": 4.0 / (step + 1)}) for step in range(20)]
        source.telemetry["long"] = [(f"{now + step}-0", point) for step, point in enumerate(points)]
        source.telemetry["long"].append((f"{now + 100}-0", TelemetryPoint(1, line="epoch 1 is done")))
        await person.sees("loss", "at step 19 of 40", "epoch 1 is done", "⠤")


async def test_workers_show_what_they_hold_and_how_busy_they_are(source: FakeSource) -> None:
    source.heartbeats.append((f"{source.history.now_ms}-0", Heartbeat("w2", 1, 37.0, 8 * 2**30, (91.0, 0.0))))
    async with opened(source) as person:
        await person.press("3")
        await person.sees("2 workers: 2 alive", "● alive", "37%", "8G/32G", "□0 91%", "1 of 2")


async def test_events_are_shown_newest_last_and_open_their_task(source: FakeSource) -> None:
    async with opened(source) as person:
        await person.press("5")
        await person.sees(f"{len(source.entries)} of {len(source.entries)} events", "ResultPublished")
        source.history.submit("later", "dpo")
        await person.sees("later", f"{len(source.entries)} events")
        await person.press("e")
        await person.sees('"type": "TaskSubmitted"')
        await person.press("escape", "enter")
        await person.sees("○ ready  later")


async def test_cancel_asks_first_with_the_focus_on_no_and_sends_the_request(source: FakeSource) -> None:
    async with opened(source) as person:
        await person.press("j", "x")
        await person.sees("Cancel long?", "it is running now")
        await person.press("enter")  # No has the focus
        await person.sees_no("Cancel long?")
        assert source.asked == []
        await person.press("x", "tab", "enter")
        await person.sees("cancel asked for")
        (event,) = source.asked
        assert isinstance(event, CancelRequested)
        assert (event.task, bool(event.by)) == ("long", True)


async def test_retry_is_for_dead_lettered_tasks_only(source: FakeSource) -> None:
    async with opened(source) as person:
        await person.press("r", "y")
        await person.sees("retry asked for")
        assert isinstance(source.asked[0], RetryRequested)
        await person.press("G", "r")
        await person.sees("only a dead-lettered task can be retried")
        assert len(source.asked) == 1


@pytest.mark.parametrize("how", ["read_only", "past"])
async def test_actions_are_off_in_a_console_that_only_reads_and_in_the_past(source: FakeSource, how: str) -> None:
    async with opened(source, read_only=how == "read_only") as person:
        if how == "past":
            await person.press("t")
            await person.sees("AS OF")
        await person.press("x", "r")
        await asyncio.sleep(0)
        await person.press("question_mark")  # what comes after them is there, so they had their turn
        shown = await person.sees("panes of a task")
        assert "Cancel bad?" not in shown
        assert "Retry bad?" not in shown
        assert source.asked == []


async def test_a_log_that_goes_away_leaves_the_last_state_and_a_banner_until_it_is_back(source: FakeSource) -> None:
    async with opened(source) as person:
        source.away = "connection refused"
        await person.sees("the event log is away: connection refused", "○ away", "✗ dead-letter")
        await person.press("3")
        await person.sees("● alive")
        source.away = ""
        await person.sees("● live")
        await person.sees_no("is away")


async def test_a_log_that_is_not_there_at_all_is_waited_for() -> None:
    source = FakeSource(a_history())
    source.away = "no event log found: start `mloc up`"
    async with opened(source) as person:
        await person.sees("no event log found: start `mloc up`")
        source.away = ""
        await person.sees("showing 7 of 7")


async def test_an_archive_is_a_history_like_any_other_of_which_nothing_can_be_asked(source: FakeSource, tmp_path: Path) -> None:
    # given the entries in a file
    file = tmp_path / "log.jsonl.zst"
    lines = b"\n".join(msgspec.json.encode([entry.id, msgspec.Raw(entry.payload)]) for entry in source.entries)
    file.write_bytes(zstandard.compress(lines))
    # then the console shows it, travels in it, and sends nothing
    async with opened(open_archive(file)) as person:
        await person.sees("■ archive log.jsonl.zst · 29 events", "✗ dead-letter")
        await person.press("x", "comma")
        shown = await person.sees("AS OF #")
        assert "Cancel" not in shown


def test_a_file_that_is_no_archive_is_refused_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text("hello\n")
    assert main(["--archive", str(file)]) == 2
    assert f"{file} line 1 is no entry of a log" in capsys.readouterr().err
    assert main(["--archive", str(tmp_path / "none")]) == 2


async def test_the_mouse_chooses_a_row_opens_it_and_changes_screens(source: FakeSource) -> None:
    async with opened(source) as person:
        await person.clicks(RowTable, (20, 2))
        assert person.app.query_one(RowTable).cursor_key == "long"
        await person.clicks(RowTable, (20, 2))
        await person.sees("▶ running  long")
        await person._pilot.click("#top", offset=(20, 0))
        await person.sees("2 workers: 2 alive")


async def test_without_colour_everything_is_still_told_by_glyphs_and_words(source: FakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(source, size=(80, 24)) as person:
        await person.sees("▸ ✗ dead-letter", "▶ running", "○ ready", "✓ published")
        colours = {
            colour.triplet
            for strip in person.app.screen._compositor.render_strips()
            for segment in strip.apply_filter(person.app._filters[0], person.app.screen.background_colors[1])
            if segment.style
            for colour in (segment.style.color, segment.style.bgcolor)
            if colour and colour.triplet
        }
        assert all(triplet.red == triplet.green == triplet.blue for triplet in colours)
        assert len(colours) > 2


@pytest.mark.deep
async def test_a_hundred_thousand_tasks_are_shown_filtered_and_travelled_without_a_wait() -> None:
    # given many tasks that wait for a worker which is not there
    made = History(step_ms=1)
    for number in range(100_000):
        made.submit(f"t{number}", "dpo")
    source = FakeSource(made)
    # when the console opens
    began = time.monotonic()
    async with opened(source) as person:
        await person.sees("MLOC")
        painted = time.monotonic() - began
        await person.waits_for(lambda shown: "showing 100,000 of 100,000" in shown, "all tasks")
        # then keys answer while events come
        slowest = 0.0
        for number in range(20):
            made.submit(f"new{number}", "dpo")
            pressed = time.monotonic()
            await person._pilot._wait_for_screen()
            await person.press("j")
            slowest = max(slowest, time.monotonic() - pressed)
        await person.press("G", "slash", *"t9999")
        await person.sees("showing 11 of 100,020")
    assert painted < 3.0, painted
    assert slowest < 1.0, slowest
