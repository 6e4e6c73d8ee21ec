"""How the screens look, as committed pictures: `pytest tests/console --snapshot-update` draws them anew after a wanted change."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from mloc.console.app import ConsoleApp
from mloc.services.log.event_log import Heartbeat, TelemetryPoint
from tests.console.fake_source import FakeSource
from tests.console.person import a_history, screen_text
from tests.histories import History

Press = Callable[[Pilot[None]], Awaitable[None]]
WIDE = (100, 30)
NARROW = (80, 24)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Times of day are local ones; pictures are drawn in UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def a_source() -> FakeSource:
    source = FakeSource(a_history())
    now = source.history.now_ms
    source.heartbeats = [(f"{now}-0", Heartbeat("w1", 1, 12.0, 2**31)), (f"{now}-1", Heartbeat("w2", 1, 64.0, 2**33, (91.0, 3.0)))]
    losses = [TelemetryPoint(1, step=step, total_steps=100, metrics={"loss": 4.0 / (1 + step / 8), "tokens_per_sec": 5120.0}) for step in range(60)]
    source.telemetry["long"] = [(f"{now + step}-0", point) for step, point in enumerate(losses)]
    source.telemetry["long"].append((f"{now + 100}-0", TelemetryPoint(1, line="step 59/100  loss 0.4776")))
    return source


def shows(*texts: str, press: tuple[str, ...] = ()) -> Press:
    """Press keys, and wait until the screen shows what the picture is of."""

    async def until(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, ConsoleApp)
        await _wait(pilot, app, ("MLOC",))
        await _wait(pilot, app, ("live",) if "is away" not in " ".join(texts) else ("away",))
        await pilot.press(*press)
        await _wait(pilot, app, texts)
        await _at_rest(pilot, app)

    return until


async def _at_rest(pilot: Pilot[None], app: ConsoleApp) -> None:
    """Until several rounds of showing have changed nothing, so that nothing is drawn halfway, on a busy machine neither."""
    rounds, before = 0, ""
    while rounds < 3:
        await pilot.pause(0.12)
        now = app.export_screenshot()
        rounds, before = (rounds + 1 if now == before else 0), now


async def _wait(pilot: Pilot[None], app: ConsoleApp, texts: tuple[str, ...]) -> None:
    deadline = time.monotonic() + 10
    while not all(text in screen_text(app) for text in texts):
        assert time.monotonic() < deadline, f"waited for {texts}; the screen shows\n{screen_text(app)}"
        await pilot.pause(0.02)


@pytest.mark.parametrize(
    ("name", "size", "see"),
    [
        ("tasks_narrow", NARROW, shows("showing 7 of 7")),
        ("tasks_as_of_the_past", WIDE, shows("AS OF", "1 failed", press=("comma", "comma"))),
        ("tasks_filter_with_an_error", NARROW, shows("did you mean state?", press=("slash", *"sate:x"))),
        ("workers", WIDE, shows("64%", "□0 91%", press=("3",))),
        ("events_narrow", NARROW, shows("▸ 22:13:27.250 ResultPublished", press=("5",))),
        ("task_with_its_curve", WIDE, shows("at step 59 of 100", "last of its log", "AttemptStarted", press=("j", "enter"))),
        ("cancel_is_asked", NARROW, shows("Cancel long?", press=("j", "x"))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_screen_looks_as_it_did(name: str, size: tuple[int, int], see: Press, snap_compare: Any) -> None:
    assert snap_compare(ConsoleApp(a_source()), terminal_size=size, run_before=see)


def test_a_console_without_its_log_looks_as_it_did(snap_compare: Any) -> None:
    source = FakeSource(History())
    source.away = "no event log found: REDIS_URL is not set and no `mloc up` runs here"
    assert snap_compare(ConsoleApp(source), terminal_size=NARROW, run_before=shows("is away"))
