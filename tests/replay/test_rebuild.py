"""Rebuilding, verifying and looking back, over histories that the real deciders wrote."""

import msgspec
import pytest

from mloc.core.cluster import Cluster
from mloc.core.events import Error, TaskPriorityChanged
from mloc.core.moment import AtId, AtOrdinal, AtTime
from mloc.replay import shown
from mloc.replay.as_of import TaskUnknown, as_of, history, task_at, task_whole
from mloc.replay.rebuild import LogDamaged, rebuild
from mloc.replay.verify import Claim, verify
from mloc.services.log.event_log import Entry
from tests.histories import History, HistoryLog


def a_history() -> History:
    """Two workers, a pipeline, and one task that fails for good."""
    found = History(outcome=lambda task, attempt: Error("ValueError", "no such column", retryable=False) if task == "bad" else {"ok": True})
    found.worker("w1")
    found.worker("w2", devices=2)
    found.submit("a")
    found.submit("bad")
    found.pipeline("p", {"train": "sft", "infer": "inference"})
    found.settle()
    return found


def claim_of(service: str, cluster: Cluster) -> Claim:
    return Claim(service, cluster.position, cluster.digest(), cluster.to_bytes())


async def test_the_log_alone_gives_the_state_of_who_wrote_it() -> None:
    made = a_history()
    found = await rebuild(HistoryLog(made))
    assert found.cluster.digest() == made.cluster.digest()
    assert (found.events, found.cluster.position) == (len(made.entries), made.entries[-1].id)
    assert made.cluster.counts() == {"published": 4, "dead_lettered": 1}
    assert shown.rebuilt_json(found)["by_type"]["TaskSubmitted"] == 5


async def test_any_point_of_history_has_the_state_that_was_there() -> None:
    # given the digest after every event, as it was when it was written
    made = History()
    digests = [made.cluster.digest()]
    made.worker("w1")
    digests.append(made.cluster.digest())
    made.submit("a")
    digests.append(made.cluster.digest())
    # then an ordinal, an id and a time lead to it
    log = HistoryLog(made)
    assert (await rebuild(log, AtOrdinal(2))).cluster.digest() == digests[1]
    assert (await rebuild(log, AtId(made.entries[0].id))).cluster.digest() == digests[0]
    between = int(made.entries[2].id.split("-")[0]) - 1
    assert (await rebuild(log, AtTime(between))).cluster.digest() == digests[1]
    assert (await rebuild(log, AtTime(between + 10**9))).cluster.digest() == digests[2]
    assert (await rebuild(log, AtTime(between - 10**9))).events == 0


async def test_a_task_is_shown_whole_with_the_events_that_made_it() -> None:
    made = a_history()
    found, rebuilt = await as_of(HistoryLog(made), AtTime(made.now_ms))
    events = await history(HistoryLog(made), "bad", found.position)
    assert [happened.type for happened in events] == ["TaskSubmitted", "TaskDispatched", "AttemptStarted", "AttemptFailed", "TaskDeadLettered"]
    whole = task_whole(rebuilt.cluster, task_at(rebuilt.cluster, "bad"))
    assert whole["spec"] == {"taskType": "echo", "data": {"items": ["bad"]}}
    assert "ValueError" in shown.task_text(whole, events)
    assert "dead_lettered" in shown.as_of_text(found, limit=20)
    with pytest.raises(TaskUnknown, match=r"no task trai at .*p\.train"):
        task_at(rebuilt.cluster, "trai")


async def test_verify_holds_services_to_the_log() -> None:
    # given one service in the middle of the log, one at its end
    made = a_history()
    middle = (await rebuild(HistoryLog(made), AtOrdinal(10))).cluster
    claims = [claim_of("scheduler", made.cluster), claim_of("aggregator", middle)]
    # when
    found = await verify(HistoryLog(made), claims, required=("scheduler",))
    # then
    assert found.holds
    assert [(v.service, v.behind) for v in found.verdicts] == [("aggregator", len(made.entries) - 10), ("scheduler", 0)]
    assert "VERIFIED    2 of 2" in shown.verified_text(found)
    assert shown.verified_json(found)["ok"] is True


async def test_verify_names_what_differs() -> None:
    made, other = a_history(), a_history()
    task = msgspec.structs.replace(other.cluster.tasks["a"], priority=99)
    other.cluster.tasks["a"] = task
    found = await verify(HistoryLog(made), [claim_of("scheduler", other.cluster)])
    assert not found.holds
    assert found.verdicts[0].differs == ("task a: priority 99, by the log 50",)
    assert "DIFFERENT" in shown.verified_text(found)


async def test_verify_names_what_differs_outside_of_tasks_and_workers() -> None:
    made, other = a_history(), a_history()
    other.cluster.submissions += 1
    other.cluster.mean_ms["echo"] = 17.0
    found = await verify(HistoryLog(made), [claim_of("scheduler", other.cluster)])
    assert found.verdicts[0].differs == ("in submissions, mean_ms",)


async def test_verify_notices_a_lost_tail_a_missing_service_and_silence() -> None:
    made, ahead = a_history(), a_history()
    ahead.add(TaskPriorityChanged(task="bad", priority=1))
    lost = await verify(HistoryLog(made), [claim_of("scheduler", ahead.cluster)])
    assert not lost.holds
    assert "lost its tail" in lost.verdicts[0].differs[0]
    missing = await verify(HistoryLog(made), [claim_of("scheduler", made.cluster)], required=("aggregator",))
    assert (missing.holds, missing.missing) == (False, ("aggregator",))
    silent = await verify(HistoryLog(made), [])
    assert not silent.holds
    assert "none has written a snapshot yet" in shown.verified_text(silent)


async def test_a_damaged_log_is_named_with_the_entry() -> None:
    # given an entry that does not fit its type, and a log without its beginning
    broken, headless = a_history(), a_history()
    broken.entries[3] = Entry(broken.entries[3].id, "TaskSubmitted", b'{"task": 7}')
    del headless.entries[0]
    # then
    with pytest.raises(LogDamaged, match=broken.entries[3].id):
        await rebuild(HistoryLog(broken))
    with pytest.raises(LogDamaged, match="its beginning was trimmed"):
        await rebuild(HistoryLog(headless))
    assert not (await verify(HistoryLog(broken), [])).holds


async def test_entries_out_of_order_are_a_problem_of_the_chain() -> None:
    made = a_history()
    made.entries[5], made.entries[6] = made.entries[6], made.entries[5]
    found = await verify(HistoryLog(made), [])
    assert any("ids must grow" in problem for problem in found.problems)
