"""A projection's cursor: one holder at a time, moved without a word in the log, also over replies that are lost."""

from __future__ import annotations

import pytest

from mloc.services.clock import SystemClock
from mloc.services.log.event_log import EventLog, Fenced, LeaseHeld, LogUnavailable
from mloc.services.log.projection_cursor import ProjectionCursor
from tests.services.log.log_worlds import World, submitted, types

NAME = "metrics"


def cursor_of(log: EventLog, holder: str) -> ProjectionCursor:
    return ProjectionCursor(log, SystemClock(), NAME, holder)


async def test_it_moves_and_the_log_says_nothing_of_it(world: World, log: EventLog) -> None:
    last = (await log.submit([submitted("a")])).last_id
    cursor = cursor_of(log, "one")
    await cursor.take()
    before = await types(log)
    await cursor.move(last)
    assert world.cursor(NAME) == last
    assert await types(log) == before


async def test_a_second_one_waits_until_it_is_released_and_fences_the_first_when_it_took_over(world: World, log: EventLog) -> None:
    first, second = cursor_of(log, "one"), cursor_of(world.client(), "two")
    await first.take()
    with pytest.raises(LeaseHeld):
        await second.take()
    world.expire_lease(NAME)
    await second.take()
    with pytest.raises(Fenced):
        await first.move((await log.ends())[1])
    await second.release()
    await first.take()


async def test_a_move_whose_reply_was_lost_is_made_good_by_the_next(world: World, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a first move that the server made and nobody heard of
    cursor = cursor_of(log, "one")
    first = (await cursor.take()).last_id
    commit = log.commit

    async def unheard(*arguments: object) -> str:
        await commit(*arguments)  # type: ignore[arg-type]
        raise LogUnavailable("the connection broke")

    with monkeypatch.context() as broken:
        broken.setattr(log, "commit", unheard)
        with pytest.raises(LogUnavailable):
            await cursor.move(first)
    # when it moves on, twice as it does every second
    last = (await log.submit([submitted("a")])).last_id
    for _ in range(2):
        await cursor.move(last)
    # then it is where it should be
    assert world.cursor(NAME) == last
