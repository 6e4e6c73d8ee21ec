"""Live streams: nothing lost, nothing twice, at every reader's own pace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mloc.core.events import AttemptStarted, AttemptStopped, ResultPublished, TaskCancelled, TaskDispatched, WorkerDrainRequested
from mloc.services.intake.http import api_state
from mloc.services.intake.streams import event_tail, log_lines
from mloc.services.log.event_log import TelemetryPoint
from mloc.services.log.memory_log import MemoryLog
from tests.services.intake.conftest import ECHO, WORKER, Api
from tests.services.intake.sse_client import EventSource

PIPELINE = """apiVersion: mloc/v1
metadata: {name: chain}
spec:
  taskType: echo
  data: {prompts: [a]}
  stages: [{name: one}, {name: two}]
"""
SSE = {"Accept": "text/event-stream"}


@asynccontextmanager
async def listening(api: Api, path: str, **headers: str) -> AsyncIterator[EventSource]:
    async with asyncio.timeout(20), api.client.get(path, headers=SSE | headers) as response:
        yield EventSource(response)


async def said(api: Api, task: str, *lines: str) -> None:
    await MemoryLog(api.memory).append_telemetry([(task, TelemetryPoint(1, line=line)) for line in lines])


def ids_in_log(api: Api) -> list[str]:
    return [entry.id for entry in api.memory.state.entries]


async def test_the_stream_has_every_event_in_log_order_as_the_history_shows_it(api: Api) -> None:
    await api.register()
    task = (await api.submit())["task_id"]
    async with listening(api, "/api/v1/events?from=start") as source:
        before = await source.take(3)
        await api.run_to_result(task)
        got = before + await source.take(4)
    assert [one.id for one in got] == ids_in_log(api)
    assert [one.event for one in got] == api.logged()
    history = (await (await api.get(f"/api/v1/tasks/{task}/events")).json())["events"]
    assert [one.data for one in got if one.data.get("task") == task] == history


async def test_a_reader_that_was_cut_off_goes_on_behind_its_last_event(api: Api) -> None:
    for _ in range(3):
        await api.submit()
    async with listening(api, "/api/v1/events?from=start") as source:
        first = await source.take(2)
    await api.submit()
    for path, headers in (("/api/v1/events", {"Last-Event-ID": first[-1].id}), (f"/api/v1/events?last_event_id={first[-1].id}", {})):
        async with listening(api, path, **headers) as source:
            rest = await source.take(3)
        assert [one.id for one in first + rest] == ids_in_log(api)


async def test_a_new_reader_begins_now_and_can_be_cut_off_before_its_first_event(api: Api) -> None:
    await api.submit()
    async with api.client.get("/api/v1/events", headers=SSE) as response:
        head = await response.content.readuntil(b"\n\n")
    position = head.decode().partition("id: ")[2].strip()
    assert position == ids_in_log(api)[-1]
    await api.submit()
    async with listening(api, "/api/v1/events", **{"Last-Event-ID": position}) as source:
        assert (await source.take(1))[0].id == ids_in_log(api)[-1]


async def test_filters_choose_and_a_quiet_reader_still_learns_how_far_it_is(api: Api) -> None:
    await api.register()
    first, _ = [(await api.submit(PIPELINE))["task_id"] for _ in range(2)]
    async with listening(api, f"/api/v1/events?from=start&task={first}&heartbeat=0.05") as source:
        got = await source.take(3)
        assert [one.data["task"] for one in got] == [first, f"{first}.one", f"{first}.two"]
        waiting = asyncio.create_task(source.take(1))
        while source.last_id != ids_in_log(api)[-1]:
            await asyncio.sleep(0.01)
        waiting.cancel()
    async with listening(api, "/api/v1/events?from=start&type=WorkerRegistered,WorkerDrainRequested&worker=w") as source:
        assert (await source.take(1))[0].event == "WorkerRegistered"
        await api.append(WorkerDrainRequested(worker="other"), WorkerDrainRequested(worker="w"))
        assert (await source.take(1))[0].data["worker"] == "w"
    response = await api.get("/api/v1/events?type=TaskSubmited")
    assert response.status == 400
    assert "TaskSubmitted" in (await response.json())["error"]["message"]


async def test_what_is_gone_is_said_and_never_skipped(api: Api) -> None:
    for _ in range(4):
        await api.submit()
    ids = ids_in_log(api)
    unknown = await api.get("/api/v1/events", headers={"Last-Event-ID": f"{ids[1].partition('-')[0]}-999999"})
    assert (unknown.status, (await unknown.json())["error"]["code"]) == (410, "position_unknown")
    ahead = await api.get("/api/v1/events?after=99999999999999")
    assert (ahead.status, (await ahead.json())["error"]["code"]) == (410, "position_unknown")
    trim(api, 3)
    trimmed = await api.get("/api/v1/events", headers={"Last-Event-ID": ids[1]})
    assert (trimmed.status, (await trimmed.json())["error"]["code"]) == (410, "position_trimmed")
    for query in ("from=start", f"last_event_id={ids[3]}"):
        async with listening(api, f"/api/v1/events?{query}") as source:
            got = [one.id for one in await source.take(1)]
        assert got == [ids[3] if query == "from=start" else ids[4]]


async def test_a_server_that_lost_its_tail_ends_the_stream_of_who_had_seen_it(api: Api) -> None:
    await api.submit()
    async with listening(api, "/api/v1/events?from=start") as ahead, listening(api, "/api/v1/events?from=start") as behind:
        await ahead.take(2)
        await behind.take(2)
        await api.submit()
        lost = (await ahead.take(1))[0].id
        api.memory.restart(lose_tail=1)
        (gap,) = await ahead.rest()
        assert gap.event == "gap"
    assert lost not in ids_in_log(api)


async def test_readers_that_fall_behind_read_the_log_and_miss_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_tail, "KEPT_ENTRIES", 4)
    monkeypatch.setattr(event_tail, "PACE_SEC", 0.1)
    await api.submit()
    async with listening(api, "/api/v1/events") as one, listening(api, "/api/v1/events") as other:
        for _ in range(30):
            await api.submit()
        first = (await one.take(30), await other.take(30))
    expected = ids_in_log(api)[-30:]
    assert [[got.id for got in some] for some in first] == [expected, expected]


async def test_secrets_do_not_leave_in_a_stream(api: Api) -> None:
    text = ECHO + "  checkpoint: {load: {type: http, url: 'http://x/y', headers: {Authorization: Bearer abcdefgh}}}\n"
    await api.submit(text)
    async with api.client.get("/api/v1/events?from=start&type=TaskSubmitted", headers=SSE) as response:
        seen = b""
        while b"TaskSubmitted" not in seen or not seen.endswith(b"\n\n"):
            seen += await response.content.readany()
    assert b"abcdefgh" not in seen
    assert b"${secret." not in seen
    assert b'"Authorization":"***"' in seen


async def test_a_tasks_history_can_be_followed_to_its_end(api: Api) -> None:
    await api.register()
    task = (await api.submit())["task_id"]
    async with listening(api, f"/api/v1/tasks/{task}/events?follow=1") as source:
        first = await source.take(1)
        await api.submit()
        await api.run_to_result(task)
        got = first + await source.rest()
    assert [one.event for one in got] == ["TaskSubmitted", "TaskDispatched", "AttemptStarted", "AttemptSucceeded", "ResultPublished", "end"]
    async with listening(api, f"/api/v1/tasks/{task}/events?follow=1", **{"Last-Event-ID": got[2].id}) as source:
        assert [one.event for one in await source.rest()] == ["AttemptSucceeded", "ResultPublished", "end"]
    plain = await (await api.get(f"/api/v1/tasks/{task}/events?follow=1", headers={"Accept": "text/plain"})).text()
    assert [line.split()[1] for line in plain.splitlines()] == [one.event for one in got[:-1]]
    lines = (await (await api.get(f"/api/v1/tasks/{task}/events?follow=1")).text()).splitlines()
    assert [json.loads(line)["type"] for line in lines] == [one.event for one in got[:-1]]


async def test_log_lines_are_followed_until_the_task_is_over_and_all_are_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "PAGE", 3)
    await api.register()
    task = (await api.submit())["task_id"]
    await said(api, task, *(f"line {number}" for number in range(10)))
    async with listening(api, f"/api/v1/tasks/{task}/logs?follow=1") as source:
        got = await source.take(10)
        await said(api, task, "later")
        got += await source.take(1)
        await said(api, task, "last")
        await api.run_to_result(task)
        *rest, end = await source.rest()
    assert [one.data["line"] for one in got + rest] == [*(f"line {number}" for number in range(10)), "later", "last"]
    assert (end.event, end.data) == ("end", {"task_id": task, "state": "published"})
    async with listening(api, f"/api/v1/tasks/{task}/logs?follow=1", **{"Last-Event-ID": got[8].id}) as source:
        assert [one.data["line"] for one in (await source.rest())[:-1]] == ["line 9", "later", "last"]
    text = await (await api.get(f"/api/v1/tasks/{task}/logs?follow=1", headers={"Accept": "text/plain"})).text()
    assert text.splitlines()[-1] == "last"


async def test_a_cancelled_task_is_followed_until_its_worker_let_go(api: Api) -> None:
    await api.register()
    task = (await api.submit())["task_id"]
    report = {"task": task, "attempt": 1, **WORKER}
    await api.append(TaskDispatched(**report), AttemptStarted(**report), TaskCancelled(task=task))
    async with listening(api, f"/api/v1/tasks/{task}/logs?follow=1") as source:
        await said(api, task, "cleaning up")
        assert (await source.take(1))[0].data["line"] == "cleaning up"
        await api.append(WorkerDrainRequested(worker="w"), AttemptStopped(**report))
        assert [one.event for one in await source.rest()] == ["end"]


async def test_lines_of_all_parts_come_in_one_order_that_a_second_reading_repeats(api: Api) -> None:
    await api.register()
    task = (await api.submit(PIPELINE))["task_id"]
    one, two = f"{task}.one", f"{task}.two"
    async with listening(api, f"/api/v1/tasks/{task}/logs?follow=1") as source:
        for number in range(20):
            await said(api, (two, one)[number % 2], f"line {number}")
        got = await source.take(20)
        for part in (one, two):
            await api.run_to_result(part)
        await api.append(ResultPublished(task=task))
        end = (await source.rest())[-1]
    assert end.data["state"] == "published"
    assert {got_one.data["task_id"] for got_one in got} == {one, two}
    assert sorted(got_one.data["line"] for got_one in got) == sorted(f"line {number}" for number in range(20))
    again = (await (await api.get(f"/api/v1/tasks/{task}/logs")).json())["lines"]
    assert [got_one.data for got_one in got] == again
    for cut in range(0, 20, 3):
        async with listening(api, f"/api/v1/tasks/{task}/logs?follow=1", **{"Last-Event-ID": got[cut].id}) as source:
            assert [one_more.data for one_more in (await source.rest())[:-1]] == again[cut + 1 :]


async def test_kept_lines_of_a_task_that_left_memory_are_still_there(api: Api) -> None:
    folder = api.results / "old-task" / "logs"
    folder.mkdir(parents=True)
    (folder / "task.log").write_text("2026-01-02T03:04:05.006+00:00 [2] said\n2026-01-02T03:04:05.006+00:00 [2] again\n")
    (folder / "metrics.jsonl").write_text('{"time_ms":1767323045007,"attempt":2,"step":3,"total_steps":9,"loss":0.5}\n')
    got = (await (await api.get("/api/v1/tasks/old-task/logs")).json())["lines"]
    assert [(line.get("line"), line["attempt"]) for line in got] == [("said", 2), ("again", 2), (None, 2)]
    assert got[2]["metrics"] == {"loss": 0.5}
    async with listening(api, "/api/v1/tasks/old-task/logs?follow=1", **{"Last-Event-ID": got[0]["id"]}) as source:
        assert [one.event for one in await source.rest()] == ["line", "metrics", "end"]
    assert (await api.get("/api/v1/tasks/no-task/logs?follow=1")).status == 404


async def test_streams_end_cleanly_when_the_api_stops(api: Api) -> None:
    task = (await api.submit())["task_id"]
    async with listening(api, "/api/v1/events?from=start") as events, listening(api, f"/api/v1/tasks/{task}/logs?follow=1") as lines:
        await events.take(1)
        api.client.app[api_state.STATE].close_streams()
        assert [one.event for one in await events.rest() + await lines.rest()] in ([], ["TaskSubmitted"])


def trim(api: Api, count: int) -> None:
    """The oldest entries go, as an archiver takes them."""
    state = api.memory.state
    del state.entries[:count], state.ids[:count]

