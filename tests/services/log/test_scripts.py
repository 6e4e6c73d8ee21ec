"""The scripts themselves, one by one on fakeredis: what they answer, and that a refusal writes nothing. No server, no client code."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest
from redis.exceptions import ResponseError

from mloc.services.log.redis_scripts import SCRIPTS

NS, EVENTS = "{mloc}", "{mloc}:events"
STARTED, RESTARTED, ELECTED = '{"type":"LogStarted"}', '{"type":"ServerRestarted"}', '{"type":"LeaderElected","epoch":0}'


class Scripted:
    """One fake server and the calls that the tests make."""

    def __init__(self) -> None:
        self.server = fakeredis.FakeRedis(decode_responses=True)

    def call(self, name: str, *arguments: Any) -> Any:
        return self.server.eval(SCRIPTS[name].text.decode(), 1, EVENTS, NS, *arguments)

    def submit(self, key: str = "", body: str = "", limit: int = 0, task: str = "a") -> Any:
        return self.call("submit", "run", STARTED, key, body, 1000, limit, f'["{task}"]', 1, "TaskSubmitted", f'{{"task":"{task}"}}')

    def lease(self, holder: str = "me") -> Any:
        return self.call("lease", "run", STARTED, "scheduler", holder, 2000, RESTARTED, ELECTED, "scheduler")

    def commit(self, epoch: Any, number: Any, *answers: str) -> Any:
        return self.call("commit", "scheduler", epoch, number, "0-1", 2000, "", 0, *answers)

    def types(self) -> list[str]:
        return [fields["type"] for _, fields in self.server.xrange(EVENTS)]


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


def test_a_submission_starts_the_log_and_counts_once_for_each_key(scripted: Scripted) -> None:
    first = scripted.submit("key", "body")
    assert first[0] == "OK"
    assert scripted.submit("key", "body") == ["REPEATED", '["a"]', first[1]]
    assert scripted.submit("key", "other") == ["CONFLICT"]
    assert scripted.types() == ["LogStarted", "TaskSubmitted"]


def test_a_full_backlog_refuses_and_writes_nothing(scripted: Scripted) -> None:
    scripted.submit(limit=1)
    assert scripted.submit(limit=1, task="b") == ["FULL", "1"]
    assert scripted.types() == ["LogStarted", "TaskSubmitted"]


def test_a_lease_is_held_against_others_and_taken_anew_by_its_holder(scripted: Scripted) -> None:
    assert scripted.lease()[:3] == ["OK", "1", "0"]
    assert scripted.lease("other")[0] == "HELD"
    assert scripted.lease()[:2] == ["OK", "2"]
    assert scripted.types() == ["LogStarted", "LeaderElected", "LeaderElected"]


def test_a_commit_counts_once_and_only_from_the_leader(scripted: Scripted) -> None:
    scripted.lease()
    answer = ("append", "TaskCancelled", '{"task":"a"}', "", "", "")
    assert scripted.commit("1", "0", *answer)[0] == "OK"
    assert scripted.commit("1", "0", *answer)[:2] == ["ALREADY", "1"]
    assert scripted.commit("0", "1", *answer) == ["FENCED"]
    assert scripted.types().count("TaskCancelled") == 1


def test_a_commit_with_one_wrong_answer_writes_none(scripted: Scripted) -> None:
    scripted.lease()
    right, wrong = ("append", "TaskCancelled", "{}", "", "", ""), ("deliver", "TaskDispatched", "{}", "", "", "")
    with pytest.raises(ResponseError, match="names no worker"):
        scripted.commit("1", "0", *right, *wrong)
    assert scripted.types() == ["LogStarted", "LeaderElected"]
