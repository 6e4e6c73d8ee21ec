"""POST /api/v1/results: what a task's http destination sends to the API of its own cell."""

from __future__ import annotations

import json

import pytest

from mloc.services.intake.http.routes import posted_results
from tests.services.intake.conftest import Api


async def post(api: Api, body: object, status: int) -> dict:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await api.post("/api/v1/results", content, headers={"Content-Type": "application/json"})
    assert response.status == status, await response.text()
    return await response.json()


async def test_the_result_of_a_published_task_is_taken_again_and_again_and_nothing_changes(api: Api) -> None:
    await api.register()
    id = (await api.submit())["task_id"]
    await api.run_to_result(id, b'{"ok":true,"items":[1,2]}')
    before = api.logged()
    for _ in range(2):
        posted = {"task_id": id, "result": {"items": [1, 2], "ok": True}, "worker_id": "w", "metadata": {"name": "hello"}}
        assert await post(api, posted, 200) == {"ok": True, "path": str(api.results / id)}
    refused = await post(api, {"task_id": id, "result": {"ok": True, "items": []}}, 409)
    assert refused["error"]["code"] == "other_result"
    assert api.logged() == before


async def test_a_failure_is_taken_too(api: Api) -> None:
    await api.register()
    id = (await api.submit())["task_id"]
    await api.run_to_dead_letter(id)
    await post(api, {"task_id": id, "result": {"ok": False, "error": {}}}, 200)


async def test_one_of_a_task_that_runs_is_told_to_come_back_and_of_an_unknown_one_to_stay_away(api: Api) -> None:
    id = (await api.submit())["task_id"]
    assert (await post(api, {"task_id": id, "result": {}}, 425))["error"]["code"] == "not_ended"
    assert (await post(api, {"task_id": "unknown", "result": {}}, 404))["error"]["code"] == "not_found"


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"", 400), (b"[]", 422), (b'{"task_id":"a"}', 422), (b'{"task_id":1,"result":{}}', 422)])
async def test_what_is_no_posted_result_is_refused(api: Api, body: bytes, status: int) -> None:
    await post(api, body, status)


async def test_it_may_be_larger_than_a_task_file_but_not_any_size(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.register()
    id = (await api.submit())["task_id"]
    result = {"ok": True, "items": ["x" * 2_000_000]}
    await api.run_to_result(id, json.dumps(result).encode())
    await post(api, {"task_id": id, "result": result}, 200)
    monkeypatch.setattr(posted_results, "MAX_RESULT_BYTES", 1_000_000)
    await post(api, {"task_id": id, "result": result}, 413)
