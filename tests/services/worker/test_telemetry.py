"""Telemetry on its way out: bounded, in batches, with drops in sight."""

from typing import Any

from mloc.core.host_frames import Telemetry
from mloc.services.log.event_log import LogUnavailable, TelemetryPoint
from mloc.services.worker.telemetry import LINE_LIMIT, POINTS_A_BATCH, POINTS_A_TASK, TelemetryBuffer


class Taker:
    """A log that takes telemetry, or not."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, TelemetryPoint]]] = []
        self.down = False

    async def append_telemetry(self, points: list[tuple[str, TelemetryPoint]]) -> None:
        if self.down:
            raise LogUnavailable("no connection")
        self.batches.append(list(points))


async def test_lines_and_points_go_out_in_one_batch_in_their_order() -> None:
    buffer, log = TelemetryBuffer(), Taker()
    buffer.line(("t1", 1), "loading")
    buffer.points(Telemetry("t1", 1, ("a secret word",), 3, 10, {"loss": 0.5}), ("secret",))
    await buffer.flush(log)  # type: ignore[arg-type]
    assert log.batches == [
        [("t1", TelemetryPoint(1, "loading")), ("t1", TelemetryPoint(1, "a *** word")), ("t1", TelemetryPoint(1, "", 3, 10, {"loss": 0.5}))]
    ]


async def test_a_flood_loses_its_oldest_lines_and_says_how_many() -> None:
    buffer, log = TelemetryBuffer(), Taker()
    for number in range(POINTS_A_TASK + 50):
        buffer.line(("t1", 1), f"line {number}")
    await buffer.flush(log)  # type: ignore[arg-type]
    (batch,) = log.batches
    assert len(batch) == POINTS_A_BATCH
    assert (batch[0][1].line, batch[0][1].dropped) == ("line 50", 50)


async def test_what_the_log_did_not_take_is_counted_as_dropped() -> None:
    buffer, log = TelemetryBuffer(), Taker()
    log.down = True
    buffer.line(("t1", 1), "lost")
    await buffer.flush(log)  # type: ignore[arg-type]
    log.down = False
    buffer.line(("t1", 1), "there")
    await buffer.flush(log)  # type: ignore[arg-type]
    assert log.batches == [[("t1", TelemetryPoint(1, "there", dropped=1))]]


async def test_a_line_without_end_is_cut() -> None:
    buffer, log = TelemetryBuffer(), Taker()
    buffer.line(("t1", 1), "x" * 100_000)
    await buffer.flush(log)  # type: ignore[arg-type]
    sent: Any = log.batches[0][0][1]
    assert len(sent.line) < LINE_LIMIT + 10
