"""What ended tasks left goes; what anybody may still need stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mloc.core.events import AttemptStarted, TaskCancelled, TaskDispatched
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


async def test_the_api_cleans_up_too(api: Api) -> None:
    leave(api, "somebodys")
    response = await api.post("/admin/cleanup", b'{"dry_run": true}')
    assert response.status == 200
    assert await response.json() == {"ok": True, "dry_run": True, "folders": 0, "size_bytes": 0, "kept": 1, "tasks": [], "expiring": 0}
    assert (await api.post("/admin/cleanup", b'{"settled_sec": 1}')).status == 422
