"""Files that tasks name, brought to the API before these are submitted."""

import os
import time
from pathlib import Path

import aiohttp

from mloc.services.artifacts import inputs
from mloc.services.artifacts.client import Transfer
from tests.services.artifacts.cutting_proxy import CuttingProxy
from tests.services.intake.conftest import serving
from tests.services.intake.file_requests import CONTENT, announced, got, sha

DAY_SEC = 24 * 3600.0


async def bring(api, name="rows.jsonl", content=CONTENT, status=201, of=None, **headers):
    response = await api.post(f"/api/v1/inputs/{of or sha(content)}/{name}", content, headers=headers)
    assert response.status == status, await response.text()
    return await response.json()


def task_over(path: str) -> str:
    return f"apiVersion: mloc/v1\nkind: EchoTask\nmetadata: {{name: x}}\nspec:\n  taskType: echo\n  data: {{jsonl: {{path: {path}}}}}\n"


def long_ago(api) -> None:
    """As if everything had been uploaded and used a week ago."""
    for path in api.results.rglob("*"):
        os.utime(path, (time.time() - 7 * DAY_SEC,) * 2)


async def test_an_input_is_stored_once_by_its_content_and_served_back(api):
    first, again, other_name = await bring(api), await bring(api), await bring(api, "same.jsonl")
    assert first == again
    assert Path(first["path"]).read_bytes() == CONTENT
    assert os.path.samefile(first["path"], other_name["path"])
    path = f"/api/v1/inputs/{sha(CONTENT)}/rows.jsonl"
    assert await got(api, path) == CONTENT
    assert await got(api, path, 206, Range="bytes=5-9") == CONTENT[5:10]
    assert (await api.get(f"/api/v1/inputs/{sha(CONTENT)}/other")).status == 404


async def test_an_input_whose_content_is_not_what_its_address_says_is_refused(api):
    assert (await bring(api, of=sha(b"other"), status=422))["error"]["code"] == "wrong_content"
    assert (await bring(api, of=sha(b"other"), status=400, **announced(CONTENT)))["error"]["code"] == "bad_digest"
    assert (await bring(api, name=".used", status=400))["error"]["code"] == "bad_name"
    assert not list(api.results.rglob("rows.jsonl"))


async def test_a_large_input_goes_on_where_its_connection_broke(api, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content := os.urandom(3_000_000))
    budgets = iter([1_000_000])
    proxy = CuttingProxy(api.client.server.port, lambda: next(budgets, -1))
    async with proxy.running(), aiohttp.ClientSession() as session:
        stored = await Transfer(session).upload(f"http://127.0.0.1:{proxy.port}/api/v1/inputs/{sha(content)}/rows.jsonl", file)
    assert proxy.cuts == 1
    assert Path(stored.path).read_bytes() == content


async def test_an_input_that_no_task_names_expires_and_one_that_a_task_names_stays(api):
    used, unused = await bring(api, content=b'{"prompt": "a"}\n'), await bring(api, content=b'{"prompt": "b"}\n')
    await api.submit(task_over(used["path"]))
    long_ago(api)
    assert inputs.expire(api.results, time.time() - DAY_SEC) == 1
    assert Path(used["path"]).exists()
    assert not Path(unused["path"]).parent.exists()


async def test_an_input_of_a_submission_that_was_refused_expires_as_one_that_no_task_names(memory_server, tmp_path):
    async with serving(memory_server, tmp_path, backlog_limit=1) as api:
        id = (await api.submit())["task_id"]
        await api.get(f"/api/v1/tasks/{id}")  # by now the API has folded it
        named = await bring(api)
        assert (await api.post("/api/v1/tasks", task_over(named["path"]))).status == 429
        long_ago(api)
        assert inputs.expire(api.results, time.time() - DAY_SEC) == 1


async def test_an_input_that_somebody_came_back_for_does_not_expire(api):
    await bring(api)
    long_ago(api)
    await bring(api)
    assert inputs.expire(api.results, time.time() - DAY_SEC) == 0
