"""What ended tasks left goes; what anybody may still need stays."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from mloc.core.events import AttemptStarted, ResultExpired, TaskCancelled, TaskDispatched
from mloc.services.artifacts import inputs
from mloc.services.retention import leftovers
from mloc.services.retention.cleanup import clean_up
from tests.services.intake.conftest import WORKER, Api

HOUR_MS = 3600 * 1000


def leave(api: Api, task: str, content: str = "row\n") -> Path:
    folder = api.results / ".attempts" / task / "1"
    folder.mkdir(parents=True)
    (folder / "part").write_text(content)
    return folder.parent


def publish_tree(api: Api, task: str) -> None:
    (api.results / task).mkdir(parents=True, exist_ok=True)
    (api.results / task / "manifest.json").write_text(f'{{"task_id": "{task}", "ok": true, "attempt": 1}}')


async def test_only_what_ended_tasks_left_goes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "PAUSE_SEC", 0)
    await api.register()
    published, unwritten, dead, running, cancelled, held = [(await api.submit())["task_id"] for _ in range(6)]
    for task in (published, unwritten):
        await api.run_to_result(task)
    publish_tree(api, published)
    await api.run_to_dead_letter(dead)
    for task in (running, held):
        report = {"task": task, "attempt": 1, **WORKER}
        await api.append(TaskDispatched(**report), AttemptStarted(**report))
    await api.append(TaskCancelled(task=held), TaskCancelled(task=cancelled))
    left = {task: leave(api, task) for task in (published, unwritten, dead, running, cancelled, held, "of-another-cell")}
    now_ms = int(time.time() * 1000)

    assert (await clean_up(api.observer.cluster, api.results, now_ms, dry_run=False)).folders == 0  # all ended only now
    shown = await clean_up(api.observer.cluster, api.results, now_ms + HOUR_MS, dry_run=True)
    assert (set(shown.tasks), shown.size_bytes, shown.kept) == ({published, cancelled}, 8, 5)
    assert all(folder.is_dir() for folder in left.values())
    done = await clean_up(api.observer.cluster, api.results, now_ms + HOUR_MS, dry_run=False)
    assert set(done.tasks) == {published, cancelled}
    assert {task for task, folder in left.items() if folder.exists()} == {unwritten, dead, running, held, "of-another-cell"}


async def test_a_task_that_left_memory_is_known_by_its_result(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "PAUSE_SEC", 0)
    publish_tree(api, "old")
    old, fresh = leave(api, "old.one.s3"), leave(api, "old.two")
    yesterday = time.time() - 2 * leftovers.UNKNOWN_SEC
    for path in (old, *old.iterdir()):
        os.utime(path, (yesterday, yesterday))
    done = await clean_up(api.observer.cluster, api.results, int(time.time() * 1000), dry_run=False)
    assert done.tasks == ("old.one.s3",)
    assert fresh.is_dir()


async def test_an_acknowledged_upload_is_nobody_s_leftover(api: Api) -> None:
    await api.register()
    task = (await api.submit())["task_id"]
    await api.run_to_result(task)
    publish_tree(api, task)
    leave(api, task)
    assert (await api.post(f"/api/v1/results/{task}/files/a.bin", b"abc")).status == 201
    done = await clean_up(api.observer.cluster, api.results, int(time.time() * 1000) + HOUR_MS, dry_run=False)
    assert (done.tasks, done.kept) == ((), 1)
    response = await api.get(f"/api/v1/results/{task}/files/a.bin")
    assert (response.status, await response.read()) == (200, b"abc")


async def test_a_name_that_a_tree_has_as_a_file_is_no_folder_for_uploads(api: Api) -> None:
    await api.register()
    task = (await api.submit())["task_id"]
    await api.run_to_result(task)
    publish_tree(api, task)
    (api.results / task / "artifacts" / "folder").mkdir(parents=True)
    (api.results / task / "artifacts" / "a").write_text("x")
    for name in ("a/b", "folder"):
        assert (await api.post(f"/api/v1/results/{task}/files/{name}", b"abc")).status == 409
    assert (await api.post(f"/api/v1/results/{task}/files/folder/b", b"abc")).status == 201


async def bring(api: Api, content: bytes) -> Path:
    response = await api.post(f"/api/v1/inputs/{hashlib.sha256(content).hexdigest()}/rows.jsonl", content)
    assert response.status == 201
    return Path((await response.json())["path"])


async def submit_over(api: Api, path: Path, key: str = "") -> str:
    text = f"apiVersion: mloc/v1\nkind: EchoTask\nspec: {{taskType: echo, data: {{jsonl: {{path: {path}}}}}}}\n"
    response = await api.post("/api/v1/tasks", text.encode(), headers={"Idempotency-Key": key} if key else {})
    assert response.status == 201, await response.text()
    return str((await response.json())["task_id"])


async def test_an_input_goes_once_no_task_that_names_it_needs_it(api: Api) -> None:
    await api.register()
    alone, shared, failed, unused = [await bring(api, content) for content in (b"a", b"b", b"c", b"d")]
    ended = [await submit_over(api, path, key=f"key-{path.parent.name}") for path in (alone, shared)]
    assert await submit_over(api, alone, key=f"key-{alone.parent.name}") == ended[0]  # repeated, which makes no other task
    waiting, dead = await submit_over(api, shared), await submit_over(api, failed)
    for task in ended:
        await api.run_to_result(task)
        publish_tree(api, task)
    await api.run_to_dead_letter(dead)
    now_ms = int(time.time() * 1000)

    assert (await clean_up(api.observer.cluster, api.results, now_ms, dry_run=False)).inputs == ()  # all of it happened only now
    shown = await clean_up(api.observer.cluster, api.results, now_ms + HOUR_MS, dry_run=True)
    assert shown.inputs == (str(alone.relative_to(api.results)),)
    assert shown.size_bytes == 1
    assert alone.exists()
    done = await clean_up(api.observer.cluster, api.results, now_ms + HOUR_MS, dry_run=False)
    assert done.inputs == shown.inputs
    assert [path.exists() for path in (alone, shared, failed, unused)] == [False, True, True, True]
    # when the other task that names it is not wanted any more either, and somebody has come back for it meanwhile
    await api.append(TaskCancelled(task=waiting))
    (seen,) = [one for one in inputs.uploaded(api.results) if one.sha256 == shared.parent.name]
    os.utime(shared, (now_ms / 1000 + 60,) * 2)
    inputs.remove(api.results, seen)
    assert shared.exists()
    done = await clean_up(api.observer.cluster, api.results, now_ms + HOUR_MS, dry_run=False)
    assert done.inputs == (str(shared.relative_to(api.results)),)
    assert not shared.exists()


async def test_an_input_goes_though_the_result_of_its_task_went_before_it(api: Api) -> None:
    await api.register()
    input = await bring(api, b"a")
    id = await submit_over(api, input)
    await api.run_to_result(id)
    now_ms = int(time.time() * 1000)
    assert (await clean_up(api.observer.cluster, api.results, now_ms + HOUR_MS, dry_run=False)).inputs == ()  # its tree is not written yet
    await api.append(ResultExpired(task=id, due_ms=now_ms))
    assert (await clean_up(api.observer.cluster, api.results, now_ms + HOUR_MS, dry_run=False)).inputs == (str(input.relative_to(api.results)),)


async def test_an_input_of_unknown_tasks_stays_until_a_result_vouches_for_them(api: Api) -> None:
    old, foreign, once = [await bring(api, content) for content in (b"a", b"b", b"c")]
    inputs.keep(api.results, [(old.parent.name, "old.one"), (foreign.parent.name, "of-another-cell")])
    (once.parent / ".used").touch()  # as it was marked before it was told by whom
    publish_tree(api, "old")
    done = await clean_up(api.observer.cluster, api.results, int(time.time() * 1000) + 48 * HOUR_MS, dry_run=False)
    assert done.inputs == (str(old.relative_to(api.results)),)
    assert foreign.exists()
    assert once.exists()


async def test_the_api_cleans_up_too(api: Api) -> None:
    leave(api, "somebodys")
    response = await api.post("/admin/cleanup", b'{"dry_run": true}')
    assert response.status == 200
    assert await response.json() == {"ok": True, "dry_run": True, "folders": 0, "size_bytes": 0, "kept": 1, "tasks": [], "inputs": [], "expiring": 0}
    assert (await api.post("/admin/cleanup", b'{"settled_sec": 1}')).status == 422
