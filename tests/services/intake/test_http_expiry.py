"""A result whose time to live is over, as the API shows it."""

from __future__ import annotations

import time

from mloc.core.event_line import describe
from mloc.core.events import ResultExpired
from tests.services.intake.conftest import Api


async def test_the_api_says_that_its_time_is_over(api: Api) -> None:
    await api.register()
    text = "apiVersion: mloc/v1\nmetadata: {name: t}\nspec: {taskType: echo, data: [a], ttl_sec: 0.001}\n"
    id = (await api.submit(text))["task_id"]
    await api.run_to_result(id)
    shown = await (await api.get(f"/api/v1/tasks/{id}")).json()
    assert shown["expires_at"] > shown["ended_at"]
    deadline = time.monotonic() + 10
    while (answer := await api.get(f"/api/v1/results/{id}")).status == 200:
        assert time.monotonic() < deadline
    assert (answer.status, (await answer.json())["error"]["code"]) == (410, "result_expired")
    await api.append(ResultExpired(task=id, due_ms=api.observer.cluster.expiring[0][0]))
    assert (await api.get(f"/api/v1/results/{id}")).status == 410
    assert (await (await api.get(f"/api/v1/tasks/{id}")).json())["expired_at"]
    for path in (f"/api/v1/results/{id}/files", f"/api/v1/results/{id}/files/a.bin", f"/api/v1/tasks/{id}/files/responses.json"):
        assert (await api.get(path)).status == 410
    assert (await api.post(f"/api/v1/results/{id}/files/a.bin", b"abc")).status == 410  # nobody would ever remove it
    assert describe(ResultExpired(task=id, due_ms=1)) == "its time is over, its files are removed"
