"""The API knows tasks that left its memory, lists them with those of a moment ago, and counts them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mloc.core import log_ids
from mloc.services.clock import SystemClock
from mloc.services.log.memory_log import MemoryLog
from mloc.services.read_model import projector as projectors
from mloc.services.read_model.projector import Projector
from mloc.services.read_model.reader import Reader, Unreadable
from tests.services.intake.conftest import ECHO, Api


async def answer(api: Api, path: str, status: int = 200) -> dict:
    response = await api.get(path)
    assert response.status == status, await response.text()
    return await response.json()


@pytest_asyncio.fixture
async def forgetful(api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    """An API that keeps no finished task in memory, beside a projector."""
    monkeypatch.setattr("mloc.core.cluster.KEEP_ENDED", 0)
    monkeypatch.setattr(projectors, "WRITE_SEC", 0.02)
    monkeypatch.setattr(projectors, "BLOCK_MS", 20)
    stop = asyncio.Event()
    running = asyncio.create_task(Projector(MemoryLog(api.memory), SystemClock(), api.state / "read_model.sqlite", stop=stop).run())
    yield api
    stop.set()
    await running


async def written(api: Api) -> None:
    """Wait until the read model has all that is in the log now."""
    _, last = await MemoryLog(api.memory).ends()
    async with asyncio.timeout(10):
        while True:
            reader = Reader(api.state / "read_model.sqlite")
            try:
                cursor = reader.cursor()
                if cursor.is_complete and not log_ids.before(cursor.position, last):
                    return
            except Unreadable:
                pass
            finally:
                reader.close()
            await asyncio.sleep(0.01)


async def test_a_finished_task_that_left_memory_is_listed_shown_and_can_be_waited_for(forgetful: Api) -> None:
    api = forgetful
    await api.register()
    old = [(await api.submit(ECHO.replace("hello", name)))["task_id"] for name in ("a", "b", "c")]
    for id in old:
        await api.run_to_result(id)
    await written(api)
    new = (await api.submit(ECHO.replace("hello", "new")))["task_id"]
    assert not set(old) & set(api.observer.cluster.tasks)
    # a page with both, then the rest by cursor
    first = await answer(api, "/api/v1/tasks?owner=ada&page_size=2")
    assert [task["task_id"] for task in first["tasks"]] == [new, old[2]]
    assert (first["total"], first["total_is_at_least"], first["warnings"]) == (4, False, [])
    second = await answer(api, f"/api/v1/tasks?owner=ada&page_size=2&cursor={first['next_cursor']}")
    assert [task["task_id"] for task in second["tasks"]] == [old[1], old[0]]
    assert second["next_cursor"] is None
    assert (await answer(api, f"/api/v1/tasks?owner=bo&cursor={first['next_cursor']}", 400))["error"]["path"] == "cursor"
    # the task itself, its spec, history and result
    shown = await answer(api, f"/api/v1/tasks/{old[0]}")
    assert (shown["state"], shown["spec"]["taskType"], shown["name"]) == ("published", "echo", "a")
    assert [event["type"] for event in (await answer(api, f"/api/v1/tasks/{old[0]}/events"))["events"]][-1] == "ResultPublished"
    assert (await answer(api, f"/api/v1/results/{old[0]}"))["ok"]
    # and by its name as a dependency, which is met
    after = await api.submit(ECHO + "  dependsOn: [a]\n")
    assert (after["tasks"][0]["depends_on"], after["tasks"][0]["waiting_on"]) == ([old[0]], [])


async def test_statistics_count_what_finished(forgetful: Api) -> None:
    api = forgetful
    await api.register()
    await api.run_to_result((await api.submit())["task_id"])
    await api.run_to_dead_letter((await api.submit())["task_id"])
    await written(api)
    shown = await answer(api, "/api/v1/stats?user=ada&start_date=2020-01-01")
    assert (shown["tasks"], shown["success_rate"]) == ({"dead_lettered": 1, "published": 1}, 0.5)
    assert shown["by_owner"] == {}
    everyone = await answer(api, "/api/v1/stats?by=owner")
    assert everyone["by_owner"]["ada"]["tasks"] == everyone["by_type"]["echo"]["tasks"] == shown["tasks"]
    assert (await answer(api, "/api/v1/stats?by=model", 400))["error"]["path"] == "by"
    assert shown["by_type"]["echo"]["tasks"] == shown["tasks"]
    assert (await answer(api, "/api/v1/stats?user=bo"))["tasks"] == {}
    assert (await answer(api, "/api/v1/stats?end_date=2020-01-01"))["tasks"] == {}
    assert (await answer(api, "/api/v1/stats?start_date=then", 400))["error"]["path"] == "start_date"


async def test_statistics_without_a_read_model_say_what_is_missing(api: Api) -> None:
    assert (await answer(api, "/api/v1/stats", 503))["error"]["code"] == "no_read_model"
