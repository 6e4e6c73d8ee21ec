"""The submitter repeats what got no answer, and says that it is a repeat."""

from __future__ import annotations

import pytest

from mloc.core import codec
from mloc.core.events import TaskSubmitted
from mloc.services.intake.submission import Submission
from mloc.services.intake.submitter import Submitter
from mloc.services.log.event_log import LogUnavailable
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer


class NoWait:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class World:
    """A server that ends when it has taken the first submission and before it has answered, with or without its log."""

    def __init__(self, lost: int = 0) -> None:
        self.server = MemoryServer(lambda: 1000)
        self.submitter = Submitter(MemoryLog(self.server, self._wait), NoWait(), backlog_limit=10)
        self._lost = lost
        self._answered = 0

    async def _wait(self, moment: str, call: str) -> None:
        if (moment, call) == ("reply", "submit"):
            self._answered += 1
            if self._answered == 1:
                self.server.restart(lose_tail=self._lost)
                raise LogUnavailable("the reply was lost")

    def submitted(self) -> list[tuple[str, bool]]:
        events = [codec.decode(entry.type, entry.payload) for entry in self.server.state.entries]
        return [(event.task, event.sent_before) for event in events if isinstance(event, TaskSubmitted)]


@pytest.mark.parametrize("lost", [0, 100])
async def test_a_repeat_says_that_it_is_one(lost: int) -> None:
    world = World(lost)
    for id in ("a", "b"):
        await world.submitter.submit(Submission((TaskSubmitted(task=id),), {}), 0)
    assert world.submitted() == [("a", False)] * (not lost) + [("a", True), ("b", False)]


def with_key(id: str) -> Submission:
    event = TaskSubmitted(task=id, has_secrets=True, idempotency_key="key", body_sha256="body")
    return Submission((event,), {id: {"TOKEN": "s3"}}, "key", "body")


async def test_a_repeat_of_its_own_first_try_is_no_repeat_for_the_caller_and_keeps_its_secrets() -> None:
    world = World()
    submitted = await world.submitter.submit(with_key("a"), 0)
    assert (submitted.tasks, submitted.repeated) == (("a",), False)
    assert world.server.state.secrets == {"a": {"TOKEN": "s3"}}
    # another one under the same key is one, and its secrets go
    submitted = await world.submitter.submit(with_key("b"), 0)
    assert (submitted.tasks, submitted.repeated) == (("a",), True)
    assert world.server.state.secrets == {"a": {"TOKEN": "s3"}}
    assert world.submitted() == [("a", False)]


async def test_a_backlog_that_the_lost_first_try_has_filled_is_no_refusal_of_it() -> None:
    world = World()
    events = tuple(TaskSubmitted(task=f"t{number}", has_secrets=number == 0) for number in range(10))
    with pytest.raises(LogUnavailable, match="whether the tasks were taken"):
        await world.submitter.submit(Submission(events, {"t0": {"TOKEN": "s3"}}), 0)
    assert world.submitted() == [(f"t{number}", False) for number in range(10)]
    assert world.server.state.secrets == {"t0": {"TOKEN": "s3"}}


async def test_what_never_gets_an_answer_is_given_up() -> None:
    async def wait(moment: str, call: str) -> None:
        raise LogUnavailable("nobody is there")

    submitter = Submitter(MemoryLog(MemoryServer(lambda: 1000), wait), NoWait(), backlog_limit=10)
    with pytest.raises(LogUnavailable):
        await submitter.submit(Submission((TaskSubmitted(task="a"),), {}), 0)
