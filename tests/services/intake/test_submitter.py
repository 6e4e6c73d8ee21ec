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


@pytest.mark.parametrize("lost", [0, 100])
async def test_a_repeat_says_that_it_is_one(lost: int) -> None:
    # given: the server ends after it took the first submission and before it answered, with or without its log
    server = MemoryServer(lambda: 1000)
    calls: list[str] = []

    async def wait(moment: str, call: str) -> None:
        calls.append(moment)
        if calls == ["request", "reply"]:
            server.restart(lose_tail=lost)
            raise LogUnavailable("the reply was lost")

    submitter = Submitter(MemoryLog(server, wait), NoWait(), backlog_limit=10)
    # when
    for id in ("a", "b"):
        await submitter.submit(Submission((TaskSubmitted(task=id),), {}), 0)
    # then
    events = [codec.decode(entry.type, entry.payload) for entry in server.state.entries]
    submitted = [(event.task, event.sent_before) for event in events if isinstance(event, TaskSubmitted)]
    assert submitted == [("a", False)] * (not lost) + [("a", True), ("b", False)]


async def test_what_never_gets_an_answer_is_given_up() -> None:
    async def wait(moment: str, call: str) -> None:
        raise LogUnavailable("nobody is there")

    submitter = Submitter(MemoryLog(MemoryServer(lambda: 1000), wait), NoWait(), backlog_limit=10)
    with pytest.raises(LogUnavailable):
        await submitter.submit(Submission((TaskSubmitted(task="a"),), {}), 0)
